"""`r1kit eval verify | selftest | bench-verifier`: the math verifier on files, on its calibration
set, and beside math-verify. Only light imports up here; `--help` is instant.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .math.bench import Comparison
    from .math.pairs import Judged
    from .math.policy import MathPolicy
    from .math.selftest import Counts, Report

SELFTESTS = ("math",)
"""The judges that can test themselves."""

MISTAKES_SHOWN = 50
"""Pairs that are printed at most."""

JsonOption = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


def verify(
    file: Annotated[
        Path, typer.Argument(help="JSONL with `pred` and `gold` on every line; - reads stdin")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="print every line with its verdict as JSON lines")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="write every line with its verdict to this file")
    ] = None,
    policy: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE",
            help="what counts as the same answer, such as units=required; repeatable",
        ),
    ] = [],  # noqa: B006 (typer copies it)
    workers: Annotated[int, typer.Option(min=1, help="pairs that are judged at a time")] = 1,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="seconds that one slow comparison may take")
    ] = 10.0,
) -> None:
    """Judge pairs of a given and a right answer.

    Each line gets `verdict`, `rule` (the step that decided), `ms`, `reason`, and the answer that
    was `extracted` and by which rule. Where lines say what is `expected`, disagreements are listed.
    """
    from .math.pairs import judge_pairs, read_pairs

    settings = _policy(policy)
    pairs = read_pairs(file)
    began = time.perf_counter()
    judged: list[Judged] = []
    try:
        with _lines_to(out) as write, _progress(len(pairs)) as advance:
            for each in judge_pairs(
                pairs, settings, workers=workers, timeout_s=timeout, on_judged=advance
            ):
                judged.append(each)
                line = as_line(verdict_row(each))
                write(line)
                if as_json:
                    typer.echo(line)
    except KeyboardInterrupt:
        unwritten = "" if out is None else f"; {out} was not written"
        typer.echo(f"r1kit: interrupted after {len(judged)} pairs{unwritten}", err=True)
        raise typer.Exit(130) from None
    _print_summary(
        summarise(judged, time.perf_counter() - began), judged, to_stderr=as_json, out=out
    )


def selftest(
    name: Annotated[
        str | None, typer.Argument(help=f"of {', '.join(SELFTESTS)}; all where not given")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="pairs that are judged at a time")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Put the judges to answers whose verdicts are known; fails if one verdict is a mistake."""
    from .. import KitError
    from .math.selftest import run

    if name is not None and name not in SELFTESTS:
        raise KitError(f"{name}: no such self-test; there are {', '.join(SELFTESTS)}")
    with _progress(None) as advance:
        report = run(workers=workers, on_judged=advance)
    if as_json:
        typer.echo(as_line({"math": report.facts()}, indent=2))
    else:
        _print_report(report)
    if not report.passed:
        raise typer.Exit(1)


def bench_verifier(
    data: Annotated[
        Path, typer.Option(help="folder of JSONL files with `pred`, `gold` and `expected`")
    ],
    out: Annotated[Path | None, typer.Option(help="write the whole comparison as JSON")] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="passes over the data, each in fresh processes")
    ] = 2,
    wrapped: Annotated[
        bool,
        typer.Option(help="measure math-verify also on answers put between dollar signs"),
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Measure the verifier beside math-verify: agreement with what is expected, and time.

    Each works through the same pairs in a process of its own, one after the other; who comes first
    changes from pass to pass.
    """
    from .math.bench import compare

    with _progress(None) as advance:
        comparison = compare(data, repeats=repeats, wrapped=wrapped, on_judged=advance)
    text = as_line(comparison.facts(), indent=2)
    if out is not None:
        with _lines_to(out) as write:
            write(text)
    if as_json:
        typer.echo(text)
    else:
        _print_comparison(comparison)


def verdict_row(judged: "Judged") -> dict[str, Any]:
    """The line of a judged pair: what was read, and behind it what was found."""
    said = judged.judgement
    return {
        **judged.pair.row,
        "verdict": said.verdict,
        "rule": said.step,
        "ms": round(judged.ms, 3),
        "reason": said.reason,
        "extracted": said.extracted,
        "extraction": said.rule,
        **({"tags": list(said.tags)} if said.tags else {}),
    }


@dataclass(frozen=True, slots=True)
class Summary:
    """Judged pairs in numbers.

    Attributes:
        verdicts: how often each verdict was given.
        expected: the pairs that say what is expected.
        agreed: those of them whose verdict is so.
        p50_ms: half of the pairs took no longer.
        p99_ms: 99 % of the pairs took no longer.
        pairs_per_s: by the wall clock, over all pairs.
    """

    verdicts: Counter[str]
    expected: int
    agreed: int
    p50_ms: float
    p99_ms: float
    pairs_per_s: float


def summarise(judged: Sequence["Judged"], wall_s: float) -> Summary:
    """Sum up pairs that were judged within `wall_s` seconds."""
    from .math.pairs import percentile

    ms = [each.ms for each in judged]
    return Summary(
        Counter(each.judgement.verdict for each in judged),
        sum(each.agrees is not None for each in judged),
        sum(each.agrees is True for each in judged),
        percentile(ms, 50),
        percentile(ms, 99),
        len(judged) / wall_s if wall_s else 0.0,
    )


def _policy(settings: Sequence[str]) -> "MathPolicy":
    """The policy of `--policy KEY=VALUE`, repeated."""
    from .. import KitError
    from .math.pairs import make_policy

    values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise KitError(f"--policy needs KEY=VALUE, got {setting!r}")
        values[key.strip()] = value.strip()
    return make_policy(values, place="--policy")


@contextmanager
def _lines_to(path: Path | None) -> Iterator[Callable[[str], object]]:
    """Write lines to a file that appears whole at the end, or not at all; None writes nothing."""
    from .. import KitError

    if path is None:
        yield lambda line: None
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise KitError(f"--out {path}: cannot be written: {error.strerror}") from error
    try:
        with file:
            yield lambda line: file.write(f"{line}\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[], object]]:
    """A bar on the error stream, and what moves it by one; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("pairs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("pairs", total=total)
        yield lambda: bar.advance(task)


def _print_summary(
    summary: Summary, judged: Sequence["Judged"], *, to_stderr: bool, out: Path | None
) -> None:
    """Print the numbers, and the pairs whose verdict is not what their line expects."""
    from rich.console import Console
    from rich.table import Table

    from .verdict import Verdict

    console = Console(file=sys.stderr if to_stderr else sys.stdout)
    table = Table("verdict", title=f"{len(judged):,} pairs")
    table.add_column("pairs", justify="right")
    for verdict in Verdict:
        table.add_row(verdict, f"{summary.verdicts[verdict]:,}")
    if summary.expected:
        table.add_section()
        table.add_row("as expected", f"{summary.agreed:,} of {summary.expected:,}")
    console.print(table)
    speed = f"{summary.pairs_per_s:,.1f} pairs/s"
    console.print(f"{speed}; p50 {summary.p50_ms:.2f} ms, p99 {summary.p99_ms:.2f} ms a pair")
    _print_mistakes(console, [each for each in judged if each.agrees is False], "--json or --out")
    if out is not None:
        console.print(f"lines with their verdicts: {out}", soft_wrap=True)


def _print_mistakes(console: Any, mistakes: Sequence["Judged"], all_in: str) -> None:
    """Print the pairs whose verdict is not an expected one, as far as that fits a screen or two."""
    from rich.text import Text

    for each in mistakes[:MISTAKES_SHOWN]:
        expected = json.dumps(each.pair.row.get("expected")).strip('"')
        said = each.judgement
        why = ": ".join(filter(None, (said.step, said.reason)))
        pair = f"{printable(each.pair.pred)}   for   {printable(each.pair.gold)}"
        console.print(Text(f"{pair}\n    expected {expected}, found {said.verdict} ({why})"))
    if len(mistakes) > MISTAKES_SHOWN:
        console.print(f"and {len(mistakes) - MISTAKES_SHOWN:,} more; {all_in} has them all")


def as_line(value: Any, indent: int | None = None) -> str:
    """A value as JSON text; with escapes where it holds half a character, which UTF-8 has not."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def printable(text: str, length: int = 120) -> str:
    """Text of unknown origin, cut, and fit for a terminal."""
    text = "".join(char if char.isprintable() else "\ufffd" for char in text[: length + 1])
    return text if len(text) <= length else text[: length - 3] + "..."


def short(figure: float) -> str:
    """A figure for a narrow column: two places, from a hundred on none."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}"


def _print_report(report: "Report") -> None:
    """Print a self-test's numbers by kind, and what failed."""
    from rich.console import Console
    from rich.table import Table

    table = Table("kind", title="math verifier on its calibration set; precision and recall in %")
    names = ("pairs", "precision", "recall", "false +", "undecided", "failed", "p50 ms", "p99 ms")
    for name in names:
        table.add_column(name.replace(" ", "\n"), justify="right")

    def add(kind: str, counts: "Counts") -> None:
        table.add_row(
            kind,
            str(counts.pairs),
            f"{100 * counts.precision:.1f}",
            f"{100 * counts.recall:.1f}",
            str(counts.false_positives),
            str(counts.unverifiable),
            str(counts.failed),
            f"{counts.p50_ms:.1f}",
            f"{counts.p99_ms:.1f}",
        )

    for kind, counts in report.by_kind.items():
        add(kind, counts)
    table.add_section()
    add("all", report.total)
    console = Console(file=sys.stdout)
    console.print(table)
    _print_mistakes(console, report.failures, "--json")
    state = "passed" if report.passed else f"FAILED: {report.total.failed} verdicts are mistakes"
    console.print(f"{state}; {report.total.total_s:.2f} s for {report.total.pairs} pairs")


def _print_comparison(comparison: "Comparison") -> None:
    """Print the contenders side by side, file by file."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # no frames: the names of the files and seven figures have to share 80 columns
    agreement = Table(title="agreement with what is expected, in %", box=SIMPLE_HEAD, padding=0)
    speed = Table(title="milliseconds for one pair, one process each", box=SIMPLE_HEAD, padding=0)
    for table in (agreement, speed):
        table.add_column("file, judge", overflow="fold", max_width=26)
    for name in ("pairs", "agree", "false\n+", "false\n-", "un-\ndecided", "time-\nouts", "broken"):
        agreement.add_column(name, justify="right", no_wrap=True)
    for name in ("mean", "p50", "p95", "p99", "max", "pairs/s", "ours:\ntimes"):
        speed.add_column(name, justify="right", no_wrap=True)
    for file in (*comparison.files, None):
        agreement.add_section()
        speed.add_section()
        agreement.add_row(file or "all")
        speed.add_row(file or "all")
        for judge in comparison.contenders:
            of = comparison.tally(judge, file)
            counts = (of.false_positives, of.false_negatives, of.unverifiable, of.timeouts)
            cells = (str(of.pairs), f"{100 * of.agreement:.2f}", *map(str, (*counts, of.broken)))
            agreement.add_row(f"  {judge}", *cells)
            times = (of.mean_ms, of.p50_ms, of.p95_ms, of.p99_ms, of.max_ms)
            ratio = short(comparison.ratio(judge, file)) if judge != comparison.ours else ""
            speed.add_row(f"  {judge}", *map(short, times), f"{of.pairs_per_s:,.0f}", ratio)
    console = Console(file=sys.stdout)
    console.print(agreement)
    console.print(speed)
    for each in comparison.passes:
        console.print(
            f"{each.contender}, place {each.position}: {each.wall_s:,.2f} s for all pairs"
        )
    for name, imports in comparison.imports.items():
        console.print(
            f"{name}: imports {imports.import_s:.2f} s, first slow verdict after "
            f"{imports.first_verdict_s:.2f} s (in no figure)"
        )
    where = comparison.provenance
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    console.print(f"{where['date']}; {where['cpu']}, {where['cores']} cores; {versions}")
    if comparison.doubtful:
        console.print(f"{comparison.doubtful} pairs of disputed expectation are in no figure")
    for entry in comparison.contradicted:
        pair = f"{printable(entry.pair.pred)}   for   {printable(entry.pair.gold)}"
        console.print(Text(f"in no figure, since {entry.file} expects both: {pair}"))
    remaining = comparison.disagreements()
    aside = sum("doubt" in each or "contradicted" in each for each in remaining)
    console.print(
        f"not judged as expected: {len(remaining) - aside} pairs, and {aside} of those in no figure"
        "; --json or --out lists them"
    )

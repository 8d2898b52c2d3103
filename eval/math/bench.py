"""Our verifier and math-verify on the same pairs in one run: agreement with expectations, and time.

Each contender works through all pairs in a fresh process of its own, one contender after the other;
who comes first changes from pass to pass, so that what else the machine does shows as a spread. The
parent watches: a pair that takes longer than `LIMIT_S` or ends the process counts as `hung` or
`crashed`, with the time that it took, and a new process goes on behind it.

math-verify is called as its documentation says, `verify(parse(gold), parse(pred))`, with its
default extraction and its default time limits, which need a process's main thread. It says True or
False; a side that it reads nothing in is counted as `unread`, and its answer is then False. It
reads LaTeX only between dollar signs and the like, so a third contender is math-verify on answers
that are put between dollar signs where they have neither these nor a box.

A line's `policy` is not heeded, since only ours has one. What math-verify cannot read it is done
with at once, so its speed means most on answers between dollar signs.

Not timed: the start of the process, its imports and `WARM_UP`, which both work through first. The
last pair of it needs our slow reader, so that the fork server with SymPy in it, which starts at the
first such pair (about a second), is up by then, as SymPy is in math-verify's process. What that
costs is stated apart: the seconds from an empty Python to the verdict on that pair.

Agreement is that CORRECT is said where it is expected and nowhere else. No figure counts a line
with `doubt`, or a pair of which one line of the file says that it is right and another that it is
not (upstream tests some under several settings); both are counted and listed apart.
"""

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ... import KitError, __version__
from ..verdict import Verdict
from .pairs import Pair, PairsError, percentile, read_pairs

LIMIT_S = 60.0
"""Seconds after which the parent ends a contender's process over one pair."""

START_LIMIT_S = 180.0
"""Seconds for a process to start, import and warm up."""

OURS, THEIRS, WRAPPED = "r1kit", "math-verify", "math-verify $"

ALARM_S = {OURS: 10.0, THEIRS: 5.0, WRAPPED: 5.0}
"""Each contender's own time limit for one comparison, as it is by default."""

SLOW_PAIR = (r"$\lim_{x\to 0} x$", "$0$")
"""Ours needs a worker for it, and starts the server that workers come from."""

WARM_UP = (
    ("$7$", "$7$"),
    ("$x+1$", "$1+x$"),
    (r"\boxed{\frac{1}{2}}", "$0.5$"),
    (r"$\sqrt{8}$", r"$2\sqrt{2}$"),
    (r"$\{1,2\}$", r"$\{2,1\}$"),
    ("$(0,1]$", "$0<x\\le 1$"),
    (r"$\begin{pmatrix}1\\2\end{pmatrix}$", r"$\begin{pmatrix}1\\2\end{pmatrix}$"),
    (r"$\sin^2 x$", r"$1-\cos^2 x$"),
    SLOW_PAIR,
)
"""Pairs that load what is loaded late, and fill the caches that do not depend on the pair."""

FIRST_STEPS = {
    OURS: (
        f"from {__package__}.verify import MathVerifier",
        "judged = MathVerifier().verify(pred, gold)",
    ),
    THEIRS: ("from math_verify import parse, verify", "verify(parse(gold), parse(pred))"),
}
"""Statements that import a contender, and that judge `pred` for `gold`."""

PACKAGES = ("math-verify", "latex2sympy2_extended", "sympy", "python-flint", "numpy")

Judge = Callable[[Pair], "Said"]


@dataclass(frozen=True, slots=True)
class Said:
    """What a contender says of a pair: a verdict or `unread`; ours also by which step, and why."""

    verdict: str
    step: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a contender said of one pair, and the milliseconds of wall clock that it took.

    `said` is a verdict, `unread` (math-verify read nothing on one side), `hung` or `crashed`; ours
    adds the step that decided and its reason.
    """

    said: str
    ms: float
    step: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pass:
    """One contender's walk through all pairs.

    Attributes:
        contender: who it was.
        position: in which place of its pass it came, from 1.
        answers: one for every pair, in order.
    """

    contender: str
    position: int
    answers: tuple[Answer, ...]

    @property
    def wall_s(self) -> float:
        """Seconds for all pairs."""
        return sum(answer.ms for answer in self.answers) / 1000


@dataclass(frozen=True, slots=True)
class Tally:
    """One contender on one group of pairs.

    Attributes:
        pairs: how many there are.
        agreed: pairs where CORRECT was said if, and only if, it is expected.
        false_positives: CORRECT was said and is not expected.
        false_negatives: CORRECT is expected and was not said.
        unverifiable: could not be decided; for math-verify, what it could not read.
        timeouts: pairs that took at least as long as the contender's own limit, or hung.
        broken: crashes, and INFRA_ERROR.
        pairs_per_s: over all passes.
        slowest_pairs_per_s: of the slowest pass.
        fastest_pairs_per_s: of the fastest pass.
        mean_ms, p50_ms, p95_ms, p99_ms, max_ms: of one pair, over all passes.
    """

    pairs: int
    agreed: int
    false_positives: int
    false_negatives: int
    unverifiable: int
    timeouts: int
    broken: int
    pairs_per_s: float
    slowest_pairs_per_s: float
    fastest_pairs_per_s: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @property
    def agreement(self) -> float:
        """The share of pairs that agree."""
        return self.agreed / self.pairs if self.pairs else 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A pair of one of the files.

    Attributes:
        file: the file's name.
        pair: the pair.
        doubt: whether the file says that its expectation may be disputed.
        contradicted: whether another line of the file, as sure of it, expects the opposite.
    """

    file: str
    pair: Pair
    doubt: bool
    contradicted: bool = False

    @property
    def counts(self) -> bool:
        """Whether figures count it."""
        return not (self.doubt or self.contradicted)

    @property
    def positive(self) -> bool:
        """Whether CORRECT is expected."""
        return expects_correct(self.pair)


def expects_correct(pair: Pair) -> bool:
    """Whether CORRECT would be no mistake."""
    return pair.right is not None and Verdict.CORRECT in pair.right


@dataclass(frozen=True, slots=True)
class Imports:
    """Seconds in a fresh Python: for the imports, and until the verdict on `SLOW_PAIR`."""

    import_s: float
    first_verdict_s: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome: the entries, the passes over them, and what starting costs each contender."""

    entries: tuple[Entry, ...]
    passes: tuple[Pass, ...]
    imports: Mapping[str, Imports]
    provenance: Mapping[str, Any]

    @property
    def contenders(self) -> list[str]:
        """Who took part, ours first."""
        return [
            name for name in (OURS, THEIRS, WRAPPED) if name in {p.contender for p in self.passes}
        ]

    @property
    def ours(self) -> str:
        """What our verifier is called among them."""
        return OURS

    @property
    def doubtful(self) -> int:
        """Pairs whose expectation may be disputed."""
        return sum(entry.doubt for entry in self.entries)

    @property
    def contradicted(self) -> list[Entry]:
        """One entry for every pair that is right by one line of its file and wrong by another."""
        found = {_key(e.file, e.pair): e for e in self.entries if e.contradicted}
        return list(found.values())

    @property
    def files(self) -> list[str]:
        """The files' names, in order."""
        return list(dict.fromkeys(entry.file for entry in self.entries))

    def tally(self, contender: str, file: str | None = None) -> Tally:
        """One contender's figures on one file, or on all of them."""
        chosen = [
            index
            for index, entry in enumerate(self.entries)
            if entry.counts and file in (None, entry.file)
        ]
        mine = [each for each in self.passes if each.contender == contender]
        return tally(
            [self.entries[index].positive for index in chosen],
            [[each.answers[index] for index in chosen] for each in mine],
            ALARM_S[contender],
        )

    def ratio(self, contender: str, file: str | None = None) -> float:
        """How many times as many pairs per second ours judges as another contender does."""
        ours, theirs = self.tally(OURS, file), self.tally(contender, file)
        return ours.pairs_per_s / theirs.pairs_per_s if theirs.pairs_per_s else 0.0

    def disagreements(self) -> list[dict[str, Any]]:
        """Pairs that ours does not judge as expected in its first pass, with what others said."""
        first = {name: self._first(name) for name in self.contenders}
        ours = first.pop(OURS)
        return [
            {
                "file": entry.file,
                "pred": entry.pair.pred,
                "gold": entry.pair.gold,
                "expected": entry.pair.row["expected"],
                **({"doubt": True} if entry.doubt else {}),
                **({"contradicted": True} if entry.contradicted else {}),
                "ours": ours[index].said,
                "step": ours[index].step,
                "reason": ours[index].reason,
                **{name: said[index].said for name, said in first.items()},
            }
            for index, entry in enumerate(self.entries)
            if (ours[index].said == Verdict.CORRECT) != entry.positive
        ]

    def _first(self, contender: str) -> tuple[Answer, ...]:
        return next(each.answers for each in self.passes if each.contender == contender)

    def facts(self) -> dict[str, Any]:
        """The comparison for programs."""

        def side_by_side(file: str | None) -> dict[str, Any]:
            tallies = {name: self.tally(name, file) for name in self.contenders}
            return {
                **{n: {**asdict(t), "agreement": t.agreement} for n, t in tallies.items()},
                "speed_ratio": {n: self.ratio(n, file) for n in tallies if n != OURS},
            }

        return {
            "provenance": dict(self.provenance),
            "doubtful_pairs_left_out": self.doubtful,
            "contradicted_pairs_left_out": [
                {"file": entry.file, "pred": entry.pair.pred, "gold": entry.pair.gold}
                for entry in self.contradicted
            ],
            "total": side_by_side(None),
            "files": {file: side_by_side(file) for file in self.files},
            "imports": {name: asdict(imports) for name, imports in self.imports.items()},
            "passes": [
                {
                    "contender": each.contender,
                    "position": each.position,
                    "wall_s": each.wall_s,
                }
                for each in self.passes
            ],
            "disagreements": self.disagreements(),
        }


def tally(positives: Sequence[bool], passes: Sequence[Sequence[Answer]], alarm_s: float) -> Tally:
    """Count one contender's answers; what was said is taken from the first pass.

    Args:
        positives: whether CORRECT is expected, for each pair.
        passes: the answers to these pairs in each pass, at least one.
        alarm_s: the contender's own limit in seconds.
    """
    first = list(zip(positives, passes[0], strict=True))
    ms = [answer.ms for each in passes for answer in each]
    speeds = [1000 * len(each) / (sum(a.ms for a in each) or 1.0) for each in passes]
    return Tally(
        pairs=len(positives),
        agreed=sum(positive == (a.said == Verdict.CORRECT) for positive, a in first),
        false_positives=sum(a.said == Verdict.CORRECT and not positive for positive, a in first),
        false_negatives=sum(a.said != Verdict.CORRECT and positive for positive, a in first),
        unverifiable=sum(a.said in (Verdict.UNVERIFIABLE, "unread") for _, a in first),
        timeouts=sum(a.said == "hung" or a.ms >= 1000 * alarm_s for _, a in first),
        broken=sum(a.said in (Verdict.INFRA_ERROR, "crashed") for _, a in first),
        pairs_per_s=1000 * len(ms) / (sum(ms) or 1.0),
        slowest_pairs_per_s=min(speeds),
        fastest_pairs_per_s=max(speeds),
        mean_ms=sum(ms) / len(ms) if ms else 0.0,
        p50_ms=percentile(ms, 50),
        p95_ms=percentile(ms, 95),
        p99_ms=percentile(ms, 99),
        max_ms=max(ms, default=0.0),
    )


def compare(
    folder: Path,
    *,
    repeats: int = 2,
    wrapped: bool = True,
    on_judged: Callable[[], object] = lambda: None,
) -> Comparison:
    """Let the contenders work through every `.jsonl` file of a folder.

    Args:
        folder: its lines need `pred`, `gold` and `expected`; those with `doubt`, and those that
            contradict another line of their file, are listed apart.
        repeats: passes, each in fresh processes.
        wrapped: let math-verify also work through the answers between dollar signs.
        on_judged: called after every pair of every contender.

    Raises:
        PairsError: no such file, or a line that cannot be used.
        KitError: math-verify is not installed, or a contender's process does not start.
    """
    if _version("math-verify") is None:
        raise KitError("bench-verifier needs math-verify: pip install 'math-verify>=0.9,<0.10'")
    entries = read_entries(folder)
    pairs = [entry.pair for entry in entries]
    contenders = [OURS, THEIRS, *([WRAPPED] if wrapped else [])]
    passes = []
    for repeat in range(repeats):
        order = contenders if repeat % 2 == 0 else contenders[::-1]
        for position, contender in enumerate(order, start=1):
            passes.append(run_contender(contender, pairs, position, on_judged))
    imports = {name: time_imports(name) for name in FIRST_STEPS}
    return Comparison(tuple(entries), tuple(passes), imports, provenance(folder))


def read_entries(folder: Path) -> list[Entry]:
    """Every line of every `.jsonl` file of a folder, in the order of their names."""
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if not files:
        raise PairsError(f"{folder}: no .jsonl file in it; --data names a folder of them")
    entries = []
    for file in files:
        pairs = read_pairs(file)
        expectations: defaultdict[tuple[str, ...], set[bool]] = defaultdict(set)
        for pair in pairs:
            if pair.right is None:
                raise PairsError(f"{file}: {json.dumps(pair.row)[:120]}: no `expected` in the line")
            if not pair.row.get("doubt"):
                expectations[_key(file.stem, pair)].add(expects_correct(pair))
        for pair in pairs:
            doubt = bool(pair.row.get("doubt"))
            contradicted = not doubt and len(expectations[_key(file.stem, pair)]) > 1
            entries.append(Entry(file.stem, pair, doubt, contradicted))
    return entries


def _key(file: str, pair: Pair) -> tuple[str, ...]:
    """What a contender sees of a pair, and the file that it is in."""
    return file, pair.pred, pair.gold, pair.problem


def run_contender(
    contender: str, pairs: Sequence[Pair], position: int, on_judged: Callable[[], object]
) -> Pass:
    """One contender's pass over all pairs, in as many processes as it takes."""
    answers: list[Answer] = []
    while len(answers) < len(pairs):
        for answer in _run_process(contender, pairs[len(answers) :]):
            answers.append(answer)
            on_judged()
    return Pass(contender, position, tuple(answers))


def _run_process(contender: str, pairs: Sequence[Pair]) -> Iterator[Answer]:
    """Start a contender and yield its answers, the last one perhaps that it was lost over it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_contend, args=(contender, list(pairs), theirs))
    process.start()
    theirs.close()
    try:
        _await_start(ours, contender)
        for _ in pairs:
            began = time.perf_counter()
            lost = "hung"
            try:
                if ours.poll(LIMIT_S):
                    yield Answer(*ours.recv())
                    continue
            except EOFError:
                lost = "crashed"
            yield Answer(lost, 1000 * (time.perf_counter() - began))
            return
    finally:
        process.kill()
        process.join()
        ours.close()


def _await_start(pipe: Connection, contender: str) -> None:
    """Wait until a contender has imported what it needs and has warmed up."""
    try:
        if pipe.poll(START_LIMIT_S):
            pipe.recv()
            return
        how = f"did not start within {START_LIMIT_S:g} s"
    except EOFError:
        how = "ended while it started; see what it printed above"
    raise KitError(f"the process of {contender} {how}")


def _contend(contender: str, pairs: list[Pair], pipe: Connection) -> None:
    """A contender's process: import, warm up, say so, and send an answer's parts for every pair."""
    judge = _judge(contender)
    for pred, gold in WARM_UP:
        judge(Pair(pred, gold))
    pipe.send("ready")
    for pair in pairs:
        began = time.perf_counter()
        said = judge(pair)
        ms = 1000 * (time.perf_counter() - began)
        pipe.send((said.verdict, ms, said.step, said.reason))


def time_imports(contender: str) -> Imports:
    """What starting a contender takes in a fresh Python, on its second start there."""
    load, judge = FIRST_STEPS[contender]
    code = (
        f"import sys, time; sys.path[:0] = {sys.path!r}; pred, gold = {SLOW_PAIR!r}\n"
        f"began = time.perf_counter()\n{load}\nimported = time.perf_counter()\n"
        f"{judge}\nprint(imported - began, time.perf_counter() - began)"
    )
    for _ in range(2):  # the first may write byte code, and reads the files from the disk
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            raise KitError(f"{contender} cannot be started: {done.stderr.strip()[-500:]}")
    return Imports(*map(float, done.stdout.split()))


def _judge(contender: str) -> Judge:
    """Import a contender; the result judges one pair."""
    if contender == OURS:
        from .verify import MathVerifier

        verifier = MathVerifier(timeout_s=ALARM_S[OURS])

        def judge_ours(pair: Pair) -> Said:
            found = verifier.verify(pair.pred, pair.gold, problem=pair.problem)
            return Said(found.verdict, found.step, found.reason)

        return judge_ours
    import logging

    from math_verify import parse, verify

    logging.disable(logging.ERROR)  # it logs every timeout

    def judge_theirs(pair: Pair) -> Said:
        pred, gold = pair.pred, pair.gold
        if contender == WRAPPED:
            pred, gold = _in_dollars(pred), _in_dollars(gold)
        want, got = parse(gold), parse(pred)
        if verify(want, got):
            return Said(Verdict.CORRECT)
        return Said(Verdict.WRONG if want and got else "unread")

    return judge_theirs


def _in_dollars(text: str) -> str:
    """An answer between dollar signs, unless it has them or a box already."""
    marked = any(mark in text for mark in ("$", r"\boxed", r"\(", r"\["))
    return text if marked else f"${text}$"


def provenance(folder: Path) -> dict[str, Any]:
    """What the figures were taken with."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": str(folder),
        "r1kit": __version__,
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

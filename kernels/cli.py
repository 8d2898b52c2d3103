"""`r1kit kernels ...`: check the kernels on the GPU at hand, and time them beside others'.

Also runs without the rest of the package: `python -m r1kit.kernels.cli check` needs torch, triton
and typer alone.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from .bench.points import Append, Point
    from .bench.result_file import Row
    from .mla_decode import Variant

app = typer.Typer(
    help="GPU kernels: check them, time them.", no_args_is_help=True, rich_markup_mode=None
)
bench = typer.Typer(
    help="Time kernels beside others' and against their bounds.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(bench, name="bench")

VARIANTS = ("hopper", "triton", "reference")
KERNELS = ("mla_decode", "mla_append")

VariantOption = Annotated[
    str | None,
    typer.Option(help=f"force one of {', '.join(VARIANTS)}; by default what fits this GPU"),
]


@app.callback()
def _group() -> None:
    """GPU kernels: check them, time them."""


@app.command()
def check(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="a family, or a case of one; repeatable"),
    ] = None,
    variant: VariantOption = None,
    seed: Annotated[int, typer.Option(help="of the random inputs")] = 0,
) -> None:
    """Check every kernel against its definition in float64, and print a table.

    Without a GPU a short list runs in Triton's interpreter. Exits with 1 where a case failed.
    """
    _known("--variant", variant, VARIANTS)
    device = _device()
    from .bench.check import Kit, run, select, summary

    try:
        kit = Kit.here(device, variant, seed)
        chosen = select(only or [])
    except ValueError as error:
        raise _refused(str(error)) from None
    typer.echo(kit.about)
    outcomes = run(kit, chosen, typer.echo)
    typer.echo(summary(outcomes))
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)


@bench.callback()
def _bench() -> None:
    """Time kernels beside others' and against their bounds."""


@bench.command()
def mla(
    heads: Annotated[str | None, typer.Option(metavar="N,N", help="query heads")] = None,
    batch: Annotated[str | None, typer.Option(metavar="N,N", help="sequences")] = None,
    context: Annotated[
        str | None, typer.Option(metavar="N,N", help="cached tokens a sequence, such as 4k,32k")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="bf16, fp8 or fp8_ds_mla")
    ] = None,
    query_tokens: Annotated[
        str | None, typer.Option(metavar="N,N", help="by default 1, and 2 at 16 heads")
    ] = None,
    query_dtype: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="bf16 or fp8")
    ] = None,
    ragged: Annotated[
        bool | None,
        typer.Option(
            "--ragged/--equal", help="lognormal lengths only, or equal ones only; else both"
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="only the shapes that the targets name: minutes")
    ] = False,
    kernel: Annotated[
        str | None, typer.Option(metavar="NAME", help="mla_decode or mla_append; by default both")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="the result file; by default one beside the code, dated")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with the file of --out: measure what it lacks")
    ] = False,
    no_anchors: Annotated[
        bool, typer.Option("--no-anchors", help="do not time vLLM's kernels beside")
    ] = False,
    variant: VariantOption = None,
    max_tokens: Annotated[
        str, typer.Option(metavar="N", help="leave out larger batches times context")
    ] = "32768k",
    budget: Annotated[
        float | None, typer.Option(min=1, metavar="SECONDS", help="begin nothing after this long")
    ] = None,
    commit: Annotated[
        str | None, typer.Option(help="what the header names; by default git is asked")
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="measure nothing: judge result files; repeatable"),
    ] = None,
    full_table: Annotated[
        bool, typer.Option("--rows", help="with --report: print all rows, too")
    ] = False,
) -> None:
    """Time latent attention's decode and append, and write a result file.

    Each row is one kernel and shape, beside FlashAttention-3 and FlashMLA where vLLM is installed.
    """
    from .bench.points import Choice, appends, counts, points

    if report:
        _report(report, with_rows=full_table)
        return
    _known("--variant", variant, VARIANTS)
    _known("--kernel", kernel, KERNELS)
    if resume and out is None:
        raise _refused("--resume: name the file to go on with: --out FILE")
    try:
        choice = Choice(
            heads=counts(heads, "--heads"),
            batch=counts(batch, "--batch"),
            context=counts(context, "--context"),
            cache=_words(cache),
            query_dtype=_words(query_dtype),
            query_tokens=counts(query_tokens, "--query-tokens"),
            ragged=ragged,
            quick=quick,
            max_tokens=max(counts(max_tokens, "--max-tokens") or ()),
        )
        chosen = points(choice) if kernel != "mla_append" else []
        appended = appends(choice.cache, quick=quick) if kernel != "mla_decode" else []
    except ValueError as error:
        raise _refused(str(error)) from None
    if not _device().startswith("cuda"):
        raise _refused(
            "bench mla needs an NVIDIA GPU and a CUDA build of torch, and torch sees none; "
            "`r1kit kernels check` runs without"
        )
    _measure(chosen, appended, out, resume, variant, budget, commit, anchors=not no_anchors)


def _measure(
    chosen: "list[Point]",
    appended: "list[Append]",
    out: Path | None,
    resume: bool,
    variant: str | None,
    budget_s: float | None,
    commit: str | None,
    *,
    anchors: bool,
) -> None:
    """Measure, and print the tables."""
    from .bench import result_file
    from .bench.mla import GpuLost, How, Machine, measure
    from .bench.targets import report

    try:
        found = result_file.read(out) if resume and out is not None and out.exists() else None
        held = found or result_file.Results(_header(commit, anchors=anchors))
        if found and found.header["gpu"] != result_file.gpu_facts()["gpu"]:
            raise ValueError(f"--resume: {out} holds results of a {found.header['gpu']}")
        path = out or result_file.new_file(
            result_file.FOLDER, held.header["gpu"], held.header["date"].partition("T")[0]
        )
        writer = result_file.Writer(path, held, resume=found is not None)
    except ValueError as error:
        raise _refused(str(error)) from None
    typer.echo(f"{len(chosen)} decode shapes and {len(appended)} appends, to {path}")
    how = How(Machine.here(), cast("Variant | None", variant), anchors, budget_s)
    try:
        run = measure(chosen, appended, writer, how, typer.echo)
    except GpuLost as error:
        typer.echo(f"{path}: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo("\n" + result_file.table(held))
    typer.echo("\n" + report(held))
    typer.echo(f"\n{path}")
    for failure in run.failures:
        typer.echo(f"FAILED {failure}", err=True)
    if run.failures:
        raise typer.Exit(1)


def _header(commit: str | None, *, anchors: bool) -> "Row":
    """The header of a new file; measures the roof."""
    from datetime import UTC, datetime

    from .bench import result_file
    from .bench.anchors import vllm_version
    from .bench.timing import measure_roof

    facts: Row = {"vllm": vllm_version(), "anchors_off": None if anchors else "--no-anchors"}
    typer.echo("measuring the roof" if facts["vllm"] else "measuring the roof; there is no vLLM")
    return result_file.header(
        measure_roof(),
        gpu=result_file.gpu_facts(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit or result_file.git_commit(),
        anchors=facts,
        command=result_file.command_line(),
    )


def _report(files: list[Path], *, with_rows: bool) -> None:
    """Print how the targets stand in result files."""
    from .bench import result_file
    from .bench.targets import report

    try:
        held = result_file.merged([result_file.read(path) for path in files])
    except ValueError as error:
        raise _refused(str(error)) from None
    if with_rows:
        typer.echo(result_file.table(held) + "\n")
    typer.echo(report(held))


def _device() -> str:
    """`cuda`, or `cpu` with Triton told to interpret; must come before Triton is imported."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    os.environ["TRITON_INTERPRET"] = "1"
    return "cpu"


def _words(text: str | None) -> tuple[str, ...] | None:
    """The words of a comma-separated list."""
    return None if text is None else tuple(dict.fromkeys(map(str.strip, text.split(","))))


def _known(option: str, word: str | None, words: tuple[str, ...]) -> None:
    """Refuse a word that is none of `words`."""
    if word is not None and word not in words:
        raise _refused(f"{option} must be one of {', '.join(words)}, got {word!r}")


def _refused(why: str) -> typer.BadParameter:
    """An error of the command line: one message, exit code 2."""
    return typer.BadParameter(why)


if __name__ == "__main__":
    app()

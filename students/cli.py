"""`r1kit students`: train a student."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from .sft import SftResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Students: train them.",
)


@app.callback()
def _root() -> None:
    """Students: train them."""


@app.command()
def sft(
    data: Annotated[
        Path, typer.Option("--data", help="Parquet or JSONL, a file or a directory of them")
    ],
    out: Annotated[Path, typer.Option("--out", help="directory that the student is put into")],
    model: Annotated[
        str, typer.Option("--model", help="tiny-qwen, tiny-llama, a path, or a hub id")
    ] = "tiny-qwen",
    override: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="a setting; repeatable")
    ] = [],  # noqa: B006 (typer copies it)
) -> None:
    """Fine-tune a student on conversations: `id`, `messages`, the reply last."""
    from .settings import read_settings

    settings = read_settings(model, override)

    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from ..teacher.engines import quieten_transformers
    from .sft import Progress, train

    quieten_transformers()
    columns = (
        TextColumn("train"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps  {task.description}"),
        TimeRemainingColumn(),
    )
    errors = Console(stderr=True)
    try:
        with Bars(*columns, console=errors, transient=True) as bars:
            task = bars.add_task("loading", total=1)

            def show(now: Progress) -> None:
                figures = f"loss {now.loss:.3f}  {now.tokens_per_s:,.0f} tokens/s"
                bars.update(task, completed=now.step, total=now.steps, description=figures)

            result = train(settings, data, out, progress=show)
    except KeyboardInterrupt:
        kept = "the student that was there is untouched" if out.exists() else "nothing was written"
        typer.echo(f"r1kit: stopped before the training ended; {out}: {kept}", err=True)
        raise typer.Exit(130) from None
    Console().print(_table(result))
    for line in _warnings(result):
        errors.print(line, highlight=False, soft_wrap=True)


def _table(result: "SftResult") -> "Table":
    """The figures of a training."""
    from rich.table import Table

    table = Table(title=f"{result.model} -> {result.path}", show_header=False)
    for name, value in (
        ("parameters", f"{result.parameters:,}"),
        ("examples", f"{result.examples:,}"),
        ("steps", f"{result.steps:,}"),
        ("tokens (trained on)", f"{result.tokens:,} ({result.trained_tokens:,})"),
        ("loss, first and last tenth", f"{result.first_loss:.4f}  {result.last_loss:.4f}"),
        ("seconds", f"{result.seconds:,.1f}"),
        ("tokens/s", f"{result.tokens_per_s:,.0f} on {result.device} in {result.dtype}"),
        ("fill", f"{result.fill:.1%} of the positions computed"),
        *((note.replace("_", " "), f"{count:,}") for note, count in sorted(result.notes.items())),
    ):
        table.add_row(name, value)
    return table


def _warnings(result: "SftResult") -> list[str]:
    """What a reader must know about the data; empty where all of it was plain."""
    meaning = {
        "template_differs": "the chat template writes these replies otherwise (it may drop their"
        " thinking); they were trained as they stand in the data",
        "too_long": "longer than max_length, left out",
        "truncated": "longer than max_length, cut without an end",
        "prompt_fills_all": "the prompt alone reaches max_length, left out",
        "empty_reply": "no reply, left out",
    }
    return [
        f"r1kit: {result.notes[note]:,} of the rows: {text} (such as {result.instances[note]})"
        for note, text in meaning.items()
        if note in result.notes
    ]

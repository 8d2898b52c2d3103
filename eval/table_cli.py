"""`r1kit eval table`: what DeepSeek published for R1, what was measured here, and how to."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from .r1_table import Benchmark, Measured, R1Table

DEFAULT_RUNS = Path("runs/eval")


def table(
    runs: Annotated[
        Path, typer.Option(help="the folder of evaluations to show beside what was published")
    ] = DEFAULT_RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="print both tables as JSON")] = False,
) -> None:
    """Print R1's published tables, our measured scores beside them, and how each row is run."""
    from rich.console import Console

    from .r1_table import facts_of, load_table, read_runs

    published = load_table()
    measured: list[Measured] = []
    notices = [f"{runs}: nothing was measured yet"]
    if runs != DEFAULT_RUNS or runs.is_dir():
        measured, notices = read_runs(runs)
    if as_json:
        facts = {**facts_of(published, measured), "notices": notices}
        sys.stdout.write(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        return
    console = Console(file=sys.stdout)
    _print_models(console, published, measured)
    _print_students(console, published, measured)
    for line in (f"published: {published.source}", published.sampling, *notices):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_models(console: "Console", published: "R1Table", measured: "Sequence[Measured]") -> None:
    """R1's table; what was measured of its rows; how they are run."""
    from rich.table import Table

    from .r1_table import models_measured

    rows, columns = published.models.rows, published.models.columns
    shown = Table(title="R1's table, as published", title_justify="left")
    shown.add_column("benchmark")
    for column in columns:
        shown.add_column(column.short, justify="right")
    for place, row in enumerate(rows):
        if place and row.category != rows[place - 1].category:
            shown.add_section()
        shown.add_row(row.title, *(_number(value, row.unit) for value in row.published))
    console.print(shown)
    names = (f"{column.short}: {column.name}" for column in columns if column.short != column.name)
    console.print(", ".join(names), markup=False, highlight=False, soft_wrap=True)
    for model, found in models_measured(rows, measured).items():
        reference = [_number(row.published[-1], row.unit) for row in rows]
        titles = [row.title for row in rows]
        _print_measured(console, model, columns[-1].short, titles, reference, rows, found)
    _print_how(console, "how the rows are run", {row.title: row.how for row in rows})


def _print_measured(
    console: "Console",
    model: str,
    reference_name: str,
    titles: Sequence[str],
    reference: Sequence[str],
    benchmarks: "Sequence[Benchmark]",
    found: "Sequence[Measured | None]",
) -> None:
    """One model's measured rows beside the published number."""
    from rich.markup import escape
    from rich.table import Table

    from .r1_table import spell, spell_size

    shown = Table(title=f"measured here: {escape(model)}", title_justify="left")
    shown.add_column("benchmark")
    for name in (f"{reference_name}, published", "measured (95 % interval)", "on"):
        shown.add_column(name, justify="right")
    for title, other, benchmark, measured in zip(titles, reference, benchmarks, found, strict=True):
        value = measured.value(benchmark) if measured else None
        if measured and value:
            shown.add_row(title, other, spell(value, benchmark.unit), spell_size(measured))
    console.print(shown)


def _print_students(
    console: "Console", published: "R1Table", measured: "Sequence[Measured]"
) -> None:
    """The students' table with our models as further rows; how its columns are run."""
    from rich.markup import escape
    from rich.table import Table

    from .r1_table import models_measured, spell

    columns = published.students.columns
    shown = Table(title="the distilled students' table, as published", title_justify="left")
    shown.add_column("model", overflow="fold")
    for column in columns:
        shown.add_column(column.short, justify="right")
    for student in published.students.rows:
        units = (column.unit for column in columns)
        name = student.model.removeprefix("DeepSeek-R1-")
        shown.add_row(name, *map(_number, student.published, units))
    for place, (model, found) in enumerate(models_measured(columns, measured).items()):
        if place == 0:
            shown.add_section()
        cells = []
        for column, each in zip(columns, found, strict=True):
            value = each.value(column) if each else None
            cells.append(spell(value, column.unit) if value else "")
        shown.add_row(f"{escape(model)} (measured here)", *cells)
    console.print(shown)
    _print_how(console, "how the columns are run", {c.name: c.how for c in columns})


def _print_how(console: "Console", title: str, how: dict[str, str]) -> None:
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    shown.add_column("benchmark")
    shown.add_column("command, or why there is none", overflow="fold")
    for name, words in how.items():
        shown.add_row(name, escape(words))
    console.print(shown)


def _number(value: float | None, unit: str) -> str:
    """A published number; a dash where DeepSeek has one."""
    if value is None:
        return "-"
    return f"{value:.1f}" if unit == "%" else f"{value:.0f}"

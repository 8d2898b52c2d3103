"""`r1kit eval compare A B`: what the difference of two evaluations is worth.

Only light imports up here; `--help` is instant.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from .compare import Comparison, Side


def compare(
    a: Annotated[Path, typer.Argument(help="a folder that `r1kit eval run` has written")],
    b: Annotated[Path, typer.Argument(help="another one, on the same problems")],
    as_json: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
) -> None:
    """Say whether one of two evaluated models is better, paired by problem.

    Prints the difference with its interval, the p-value, how much of the noise comes from the
    choice of problems and how much from drawing answers, and what would settle a difference this
    large. A difference inside the noise is not called one.
    """
    from .compare import compare as compare_folders

    found = compare_folders(a, b)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    print_comparison(Console(file=sys.stdout), found)


def print_comparison(console: "Console", found: "Comparison") -> None:
    """Print a comparison: both sides, then what is said of their difference."""
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in ("", "model", "folder"):
        table.add_column(name, overflow="fold")
    for name in ("pass@1", "samples per problem", "infra"):
        table.add_column(name, justify="right")
    for letter, side in (("A", found.a), ("B", found.b)):
        named = (escape(side.model or "?"), escape(side.name))
        table.add_row(letter, *named, f"{100 * side.pass_at_1:.1f} %", _samples(side), _infra(side))
    console.print(table)
    for line in comparison_lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def comparison_lines(found: "Comparison") -> list[str]:
    """What is said of the difference, in sentences; the call comes last."""
    seen = found.difference
    low, high = (f"{100 * end:+.2f}" for end in seen.ci95)
    lines = [
        f"A - B: {100 * seen.value:+.2f} points (95 % interval {low} to {high}) over {seen.n:,} "
        f"problems; {seen.estimator}",
        f"p = {seen.p:.2g}; {seen.test}",
        f"A is ahead on {seen.a_better:,} problems, B on {seen.b_better:,}, {seen.alike:,} alike",
    ]
    if found.dropped:
        lines.append(f"{found.dropped:,} problems are left out: one side has no decided sample")
    if seen.se is not None:
        lines.append(f"standard error {100 * seen.se:.2f} points{_parts(found)}")
    return [*lines, f"power: {found.power.words}", str(found.call)]


def _parts(found: "Comparison") -> str:
    """The two kinds of noise."""
    seen = found.difference
    if seen.se_rerun is None or seen.se_question is None:
        return "; one sample per problem cannot tell where it comes from"
    return (
        f": {100 * seen.se_question:.2f} from the choice of problems, {100 * seen.se_rerun:.2f} "
        "from rerunning them"
    )


def _samples(side: "Side") -> str:
    fewest, most = side.per_problem
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _infra(side: "Side") -> str:
    return f"{100 * side.infra_share:.1f} %" if side.infra else "0"

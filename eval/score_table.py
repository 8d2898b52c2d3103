"""Score cards as tables for people."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from .interval import Estimate
from .score import ScoreCard

if TYPE_CHECKING:
    from rich.console import Console


def print_cards(console: "Console", cards: Mapping[str, ScoreCard], title: str) -> None:
    """Print scores by name (a source, a suite, `all`), and the last one in full.

    A score that is not final is printed as such, and the reason stands below the table.
    """
    table = Table(title=escape(title))
    table.add_column("")
    for name in ("problems", "samples", "pass@1", "95 % interval", "truncated", "no answer"):
        table.add_column(name, justify="right")
    for name in ("unverifiable", "infra"):
        table.add_column(name, justify="right")
    last = len(cards) - 1
    for place, (name, card) in enumerate(cards.items()):
        if place == last and last > 0:
            table.add_section()
        counts = (card.truncated, card.unanswered, card.unverifiable, card.infra)
        table.add_row(
            escape(name),
            str(card.problems),
            _samples(card),
            *_headline(card),
            *(_share(card, count) for count in counts),
        )
    console.print(table)
    for name, card in cards.items():
        if not card.is_final:
            console.print(f"NOT FINAL: {name}: {card.not_final}", markup=False)
    if cards:
        print_card(console, list(cards.values())[-1])


def print_card(console: "Console", card: ScoreCard, title: str = "") -> None:
    """Print one score in full: noise, pass@k, cons@k, lengths."""
    if title:
        console.print(title, markup=False)
    for line in card_lines(card):
        console.print(line, markup=False)
    if card.lengths:
        console.print(_length_table(card))
    if card.by_length:
        console.print(_bin_table(card))


def card_lines(card: ScoreCard) -> list[str]:
    """What one score says, in sentences."""
    lines = []
    if not card.is_final:
        lines.append(f"NOT FINAL: {card.not_final}")
    if card.pass_at_1 is not None:
        lines += _noise_lines(card.pass_at_1)
    if card.dropped:
        lines.append(f"{card.dropped} problems are left out: no sample of theirs was decided")
    undecided = card.unverifiable + card.infra
    if undecided:
        low, high = card.bounds
        lines.append(
            f"{undecided} samples are undecided: pass@1 would be {_percent(low)} if all of them "
            f"were wrong, {_percent(high)} if all were right"
        )
    several = {k: found for k, found in card.pass_at.items() if k > 1}
    if several:
        lines.append("pass@k: " + _series(several))
    if card.cons_at:
        lines.append("cons@k: " + _series(card.cons_at))
    elif card.per_problem[1] > 1:
        lines.append(f"no cons@k: {card.no_cons}")
    return lines


def _noise_lines(found: Estimate) -> list[str]:
    """The standard errors of pass@1, and what made its interval."""
    lines = [f"95 % interval for new problems: {found.estimator}"]
    if found.se is None:
        return [*lines, "one problem: how problems differ cannot be told"]
    if found.se_rerun is None or found.ci95_rerun is None or found.se_question is None:
        return [
            *lines,
            f"standard error {_points(found.se)}, clustered by problem; one sample per problem "
            "cannot tell rerun noise from question noise",
        ]
    low, high = found.ci95_rerun
    return [
        *lines,
        f"standard error {_points(found.se)}, clustered by problem: {_points(found.se_question)} "
        f"from the choice of problems, {_points(found.se_rerun)} from rerunning them",
        f"the same problems again: 95 % interval {_percent(low)} to {_percent(high)}",
    ]


def _series(found: Mapping[int, Estimate]) -> str:
    return ", ".join(
        f"{k}: {_percent(each.value)} ({_percent(each.ci95[0])} to {_percent(each.ci95[1])})"
        for k, each in found.items()
    )


def _length_table(card: ScoreCard) -> Table:
    table = Table(title="completion tokens")
    table.add_column("")
    names = {"all": "all", "right": "right", "not_right": "not right"}
    levels = list(next(iter(card.lengths.values())).percentiles)
    for name in ("samples", *(f"p{level}" for level in levels), "longest"):
        table.add_column(name, justify="right")
    for name, each in card.lengths.items():
        numbers = (each.samples, *each.percentiles.values(), each.longest)
        table.add_row(names[name], *(f"{number:,}" for number in numbers))
    return table


def _bin_table(card: ScoreCard) -> Table:
    table = Table(title="accuracy by length")
    for name in ("tokens", "samples", "right", "truncated"):
        table.add_column(name, justify="right")
    for each in card.by_length:
        table.add_row(
            f"{each.shortest:,} to {each.longest:,}",
            f"{each.samples:,}",
            _percent(each.right / each.samples),
            f"{each.truncated:,}",
        )
    return table


def _headline(card: ScoreCard) -> tuple[str, str]:
    """pass@1 and its interval; a score that is not final says so instead of standing alone."""
    found = card.pass_at_1
    if found is None:
        return "none", "not final"
    low, high = found.ci95
    if not card.is_final:
        return f"({_percent(found.value)})", "not final"
    return _percent(found.value), f"{100 * low:.1f} to {100 * high:.1f}"


def _samples(card: ScoreCard) -> str:
    fewest, most = card.per_problem
    return str(most) if fewest == most else f"{fewest} to {most}"


def _share(card: ScoreCard, count: int) -> str:
    return f"{100 * card.share(count):.1f} %" if count else "0"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"

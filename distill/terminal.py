"""The table that a run prints when it is done: scores, the waterfall and the seconds, at a glance.

Made for 100 columns. Nothing depends on colour.
"""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .facts import ReportFacts, Scored
from .phrases import count, duration, in_order, name_of, short_sources, words

MAX_COLUMNS = 6
"""Sources that fit beside the scores; more of them stand below each other."""


def terminal_table(facts: ReportFacts) -> RenderableType:
    """What a run found out, for `rich.print`: at most 100 columns wide, readable without colour."""
    parts: list[RenderableType] = [Text(f"r1kit run {facts.name}", style="bold")]
    for scores in _by_suite(facts.scores):
        sources = list(dict.fromkeys(source for s in scores.values() for source in s.by_source))
        suite = next(iter(scores.values())).suite
        title = f"pass@1 on {suite}" if suite else "pass@1"
        parts.append(_headline(scores, sources if len(sources) <= MAX_COLUMNS else [], title))
        if len(sources) > MAX_COLUMNS:
            parts.append(_sources(scores, sources))
    if not facts.scores:
        parts.append(Text("no model was scored"))
    parts.append(_funnel(facts))
    if facts.stages:
        total = duration(sum(facts.stages.values()))
        each = ", ".join(f"{words(name)} {seconds:,.1f}" for name, seconds in facts.stages.items())
        parts.append(Text(f"seconds  {each} ({total} in all)"))
    parts.append(Text(f"cost     {facts.cost}"))
    parts.extend(Text(f"note     {note}", style="yellow") for note in facts.notes)
    return Group(*parts)


def _by_suite(scores: Mapping[str, Scored]) -> list[dict[str, Scored]]:
    """The scores in their order, those on the same problems together."""
    groups: dict[str, dict[str, Scored]] = {}
    for key in in_order(scores):
        groups.setdefault(scores[key].suite, {})[key] = scores[key]
    return list(groups.values())


def _headline(scores: Mapping[str, Scored], sources: list[str], title: str) -> Table:
    """One row per model: overall with interval, then every source."""
    table = _table()
    table.add_column(title, overflow="fold", min_width=14)
    for name in ("all", "95 % interval", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for short in short_sources(sources).values():
        table.add_column(words(short), justify="right", overflow="fold", min_width=5)
    for key, scored in scores.items():
        low, high = scored.score.ci95
        cells = [
            Text(percent(scored.score.value), style="bold"),
            f"{percent(low)} to {percent(high)}",
            count(scored.score.n),
        ]
        found = [scored.by_source.get(source) for source in sources]
        table.add_row(
            name_of(key), *cells, *("-" if s is None else percent(s.value) for s in found)
        )
    return table


def _sources(scores: Mapping[str, Scored], sources: list[str]) -> Table:
    """One row per source, where there are too many for columns."""
    table = _table()
    table.add_column("by source", overflow="fold")
    for key in scores:
        table.add_column(name_of(key), justify="right")
    table.add_column("n", justify="right")
    for source, short in short_sources(sources).items():
        found = [scored.by_source.get(source) for scored in scores.values()]
        n = next(score.n for score in found if score is not None)
        cells = ("-" if s is None else percent(s.value) for s in found)
        table.add_row(words(short), *cells, count(n))
    return table


def _funnel(facts: ReportFacts) -> Text:
    """`funnel   sampled 2,000 > verify 1,890 (wrong 110) > ... > kept 1,850`."""
    steps = []
    for step in facts.funnel[1:]:
        if step.removed:
            why = ", ".join(f"{words(name)} {count(each)}" for name, each in step.removed.items())
            steps.append(f"{words(step.stage)} {count(step.left)} ({why})")
    return Text(
        "funnel   "
        + " > ".join([f"sampled {count(facts.sampled)}", *steps, f"kept {count(facts.kept)}"])
    )


def _table() -> Table:
    """An empty table without a frame."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")


def percent(value: float) -> str:
    """A share in [0, 1] as `72.4 %`."""
    return f"{100 * value:.1f} %"

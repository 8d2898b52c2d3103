"""The table that a run prints when it is done: scores, the waterfall and the seconds, at a glance.

Made for 100 columns. Nothing depends on colour.
"""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .facts import ReportFacts, Scored
from .phrases import count, duration, in_order, name_of, score_words, short_sources, words

WIDTH = 100
BESIDE = 50
"""Columns that the models, their overall scores, intervals and problem counts take."""


def terminal_table(facts: ReportFacts) -> RenderableType:
    """What a run found out, for `rich.print`: at most 100 columns wide, readable without colour."""
    (suite, scores), *others = _by_suite(facts.scores) or [("", {})]
    sources = list(dict.fromkeys(source for s in scores.values() for source in s.by_source))
    on = f": pass@1 on {suite}" if suite else ""
    parts: list[RenderableType] = [Text(f"r1kit run {facts.name}{on}", style="bold")]
    if scores:
        parts.append(_headline(scores, sources if _fit(sources) else []))
    else:
        parts.append(Text("no model was scored"))
    if not _fit(sources):
        parts.append(_sources(scores, sources))
    for other, more in others:
        for key, scored in more.items():
            on = f" (on {other})" if other and other not in name_of(key) else ""
            parts.append(Text(f"{name_of(key)}{on}: {score_words(scored.score)}"))
    parts.append(_funnel(facts))
    if facts.stages:
        total = duration(sum(facts.stages.values()))
        each = ", ".join(f"{words(name)} {seconds:,.1f}" for name, seconds in facts.stages.items())
        parts.append(Text(f"seconds  {each} ({total} in all)"))
    parts.append(Text(f"cost     {facts.cost}"))
    parts.extend(Text(f"note     {note}", style="yellow") for note in facts.notes)
    return Group(*parts)


def _by_suite(scores: Mapping[str, Scored]) -> list[tuple[str, dict[str, Scored]]]:
    """The scores in their order, those on the same problems together."""
    groups: dict[str, dict[str, Scored]] = {}
    for key in in_order(scores):
        groups.setdefault(scores[key].suite, {})[key] = scores[key]
    return list(groups.items())


def _fit(sources: list[str]) -> bool:
    """Whether a column per source fits beside the scores; a name breaks at its blanks only."""
    names = [words(short).split() for short in short_sources(sources).values()]
    return sum(2 + max((7, *map(len, name))) for name in names) <= WIDTH - BESIDE


def _headline(scores: Mapping[str, Scored], sources: list[str]) -> Table:
    """One row per model: overall with interval, then every source."""
    table = _table()
    table.add_column("", overflow="fold")
    for name in ("all", "95 % interval", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for short in short_sources(sources).values():
        table.add_column(words(short), justify="right", min_width=7)
    for key, scored in scores.items():
        low, high = scored.score.ci95
        found = [scored.by_source.get(source) for source in sources]
        table.add_row(
            name_of(key),
            Text(percent(scored.score.value), style="bold"),
            f"{percent(low)} to {percent(high)}",
            count(scored.score.n),
            *("-" if score is None else percent(score.value) for score in found),
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

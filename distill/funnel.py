"""The waterfall from sampled to kept: what each step removed, why, and from which source.

    sample -> answer -> finish -> verify -> filter -> dedup -> decontaminate

A trace is counted once, at the first step that removes it; all that was found about it stays in its
tags. Nothing is deleted here: what comes out is a reason for every trace that is not kept.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .facts import FunnelStep
from .filters import FilterSettings, TagName, excluding
from .trace import Tag, Trace

STEP_OF: Mapping[TagName, str] = {
    TagName.ENGINE_ERROR: "answer",
    TagName.CONTEXT_EXCEEDED: "answer",
    TagName.TRUNCATED: "finish",
    TagName.UNJUDGED: "verify",
    TagName.WRONG: "verify",
    TagName.UNVERIFIABLE: "verify",
    TagName.INFRA_ERROR: "verify",
}
"""The step at which a tag removes a trace; every other tag does so at `filter`."""

STEPS = ("sample", "answer", "finish", "verify", "filter", "dedup", "decontaminate")
"""The steps in their order. The traces left after the last one are the kept ones."""

DUPLICATE, CONTAMINATED = "duplicate", "contaminated"
"""The reasons that the last two steps have."""


@dataclass(frozen=True, slots=True)
class Waterfall:
    """What became of every trace.

    Attributes:
        steps: one per name in `STEPS`, with the traces left after it and what it removed.
        reasons: key -> why that trace is not kept, with the evidence; a kept trace is absent.
        by_source: reason -> source -> traces removed.
        by_level: reason -> level -> traces removed; an unknown level is the empty string.
    """

    steps: tuple[FunnelStep, ...]
    reasons: Mapping[str, Tag]
    by_source: Mapping[str, Mapping[str, int]]
    by_level: Mapping[str, Mapping[str, int]]

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> traces removed, over all steps, the most frequent first."""
        total = Counter({reason: sum(each.values()) for reason, each in self.by_source.items()})
        return _frequent_first(total)


def waterfall(
    traces: Sequence[Trace],
    settings: FilterSettings,
    *,
    duplicates: Mapping[str, str],
    contaminated: Mapping[str, str],
) -> Waterfall:
    """Decide on every trace, and count.

    Args:
        traces: with their tags.
        settings: its `exclude` says which tags remove a trace.
        duplicates: key -> key of the trace that stays in its place.
        contaminated: key -> evidence.
    """
    reasons: dict[str, Tag] = {}
    removed: dict[str, Counter[str]] = {step: Counter() for step in STEPS}
    by_source: dict[str, Counter[str]] = {}
    by_level: dict[str, Counter[str]] = {}
    for trace in traces:
        reason = _reason(trace, settings, duplicates, contaminated)
        if reason is None:
            continue
        reasons[trace.key] = reason
        removed[step_of(reason.name)][reason.name] += 1
        by_source.setdefault(reason.name, Counter())[trace.problem.source] += 1
        by_level.setdefault(reason.name, Counter())[trace.problem.level] += 1
    left, steps = len(traces), []
    for step in STEPS:
        left -= removed[step].total()
        steps.append(FunnelStep(step, left, _frequent_first(removed[step])))
    return Waterfall(tuple(steps), reasons, by_source, by_level)


def survivors(traces: Iterable[Trace], settings: FilterSettings) -> list[Trace]:
    """The traces that no tag excludes: those that duplicates are looked for among.

    A duplicate of a trace that is not kept must not lose to it.
    """
    return [trace for trace in traces if excluding(trace.tags, settings) is None]


def step_of(reason: str) -> str:
    """The step at which a reason removes a trace."""
    if reason == DUPLICATE:
        return "dedup"
    if reason == CONTAMINATED:
        return "decontaminate"
    return STEP_OF.get(TagName(reason), "filter")


def _reason(
    trace: Trace,
    settings: FilterSettings,
    duplicates: Mapping[str, str],
    contaminated: Mapping[str, str],
) -> Tag | None:
    """Why a trace is not kept: the first step that objects, or None."""
    if (tag := excluding(trace.tags, settings)) is not None:
        return tag
    if (kept := duplicates.get(trace.key)) is not None:
        return Tag(DUPLICATE, f"the same reply to the same problem as sample {kept[:12]}")
    if (evidence := contaminated.get(trace.key)) is not None:
        return Tag(CONTAMINATED, evidence)
    return None


def _frequent_first(counts: Counter[str]) -> dict[str, int]:
    """Most frequent first, and by name where the count is the same."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

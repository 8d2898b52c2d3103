"""Traces for people to read: a few that were kept, and a few for every reason to leave one out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .trace import Tag, Trace

KEPT = "kept"
PER_REASON = 3


@dataclass(frozen=True, slots=True)
class Shown:
    """One trace in the report.

    Attributes:
        reason: `kept`, or why it was left out.
        evidence: what was seen; empty where it was kept.
    """

    reason: str
    evidence: str
    trace: Trace


def showcase(traces: Sequence[Trace], reasons: Mapping[str, Tag]) -> tuple[Shown, ...]:
    """Choose up to `PER_REASON` traces that were kept, then as many per reason.

    The choice depends on the traces alone: sources take turns, and within a source the first come
    first, so that no source hides the others.

    Args:
        traces: all traces of the run.
        reasons: key -> why a trace is not kept, as `funnel.waterfall` says it.
    """
    groups: dict[str, dict[str, list[Shown]]] = {KEPT: {}}
    for trace in traces:
        reason = reasons.get(trace.key, Tag(KEPT))
        shown = Shown(reason.name, reason.evidence, trace)
        by_source = groups.setdefault(reason.name, {})
        mine = by_source.setdefault(trace.problem.source, [])
        if len(mine) < PER_REASON:
            mine.append(shown)
    return tuple(shown for by_source in groups.values() for shown in _in_turns(by_source))


def _in_turns(by_source: Mapping[str, Sequence[Shown]]) -> list[Shown]:
    """The first of every source, then the second of every source, and so on."""
    turns = [
        mine[turn] for turn in range(PER_REASON) for mine in by_source.values() if turn < len(mine)
    ]
    return turns[:PER_REASON]

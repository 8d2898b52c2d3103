"""What a run found out, gathered from its stages: the waterfall, the scores, the lengths, notes."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..eval.score import Score, pass_at_1
from ..eval.verdict import Verdict
from ..teacher.engine import Finish
from ..teacher.environment import environment, peak_mib
from .context import Context
from .cost import cost_in_words
from .facts import ReportFacts, Scored
from .filters import TagName
from .funnel import Waterfall, waterfall
from .phrases import one_line
from .store import filter_name, traces
from .trace import Trace
from .workspace import Marker, Stage

MODELS = ("teacher", "student_before", "student_after")
"""Who is scored on the held-out suite, in the order of the table."""


def sifted(context: Context) -> list[Trace]:
    """Every trace with its verdict and its tags."""
    return list(traces(context, judged=True, tags_of=filter_name(context)))


def fall(context: Context, every: Sequence[Trace]) -> Waterfall:
    """What became of every trace."""
    workspace = context.workspace
    return waterfall(
        every,
        context.recipe.filter,
        duplicates=_read(workspace.duplicates),
        contaminated=_read(workspace.contaminated),
    )


def report_facts(context: Context, every: Sequence[Trace], water: Waterfall) -> ReportFacts:
    """All that the report states about these traces, and what became of them."""
    workspace, recipe = context.workspace, context.recipe
    markers = {stage: m for stage in Stage if (m := workspace.marker(stage)) is not None}
    lengths: dict[str, list[int]] = defaultdict(list)
    sources: dict[str, int] = defaultdict(int)
    for trace in every:
        lengths[outcome(trace)].append(trace.completion.completion_tokens)
        sources[trace.problem.source] += 1
    trained = markers[Stage.TRAIN].counts if Stage.TRAIN in markers else {}
    tokens = {
        "prompt": sum(trace.completion.prompt_tokens for trace in every),
        "completion": sum(trace.completion.completion_tokens for trace in every),
        "trained": int(trained.get("tokens", 0)),
    }
    metrics = trained.get("metrics")
    return ReportFacts(
        name=recipe.name,
        scores=_scores(context, every),
        funnel=water.steps,
        lengths=dict(lengths),
        stages={str(s): m.seconds for s, m in markers.items() if m.skipped is None},
        tokens=tokens,
        cost=cost_in_words(recipe.teacher),
        kept=len(every) - len(water.reasons),
        sampled=len(every),
        counts=water.counts,
        settings=recipe.model_dump(mode="json"),
        environment=_environment(context, markers),
        train_metrics=workspace.root / metrics if metrics else None,
        notes=tuple(_notes(context, markers, every, water)),
        sources=dict(sources),
        removed_by_source=water.by_source,
        removed_by_level=water.by_level,
    )


def outcome(trace: Trace) -> str:
    """What came of one sample, in one word."""
    if trace.completion.finish is Finish.ERROR:
        return "error"
    if trace.completion.finish is Finish.LENGTH:
        return "truncated"
    return str(trace.judgement.verdict) if trace.judgement is not None else "unjudged"


def _verdict(trace: Trace) -> Verdict:
    """What a sample counts as in a score: cut off is not right, and broken is not known."""
    if trace.completion.finish is Finish.LENGTH:
        return Verdict.WRONG
    if trace.completion.finish is Finish.ERROR or trace.judgement is None:
        return Verdict.INFRA_ERROR
    return trace.judgement.verdict


def _scores(context: Context, every: Sequence[Trace]) -> dict[str, Scored]:
    """The scores on the held-out suite, and the teacher's on the problems that it was given."""
    found = {
        name: stored
        for name in MODELS
        if (stored := read_score(context.workspace.eval / f"{name}.json")) is not None
    }
    if every:
        by_source: dict[str, list[Trace]] = defaultdict(list)
        for trace in every:
            by_source[trace.problem.source].append(trace)
        found["teacher_on_problems"] = Scored(
            _score(every),
            {source: _score(part) for source, part in sorted(by_source.items())},
            "sampled problems",
        )
    return found


def _score(part: Sequence[Trace]) -> Score:
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    for trace in part:
        verdicts[trace.problem.id].append(_verdict(trace))
    cut = sum(trace.completion.finish is Finish.LENGTH for trace in part)
    return pass_at_1(verdicts, truncated=cut)


def read_score(path: Path) -> Scored | None:
    """A score that the evaluate stage wrote, or None where it did not."""
    if not path.exists():
        return None
    from pydantic import TypeAdapter

    return TypeAdapter(Scored).validate_json(path.read_text(encoding="utf-8"))


def _environment(context: Context, markers: Mapping[Stage, Marker]) -> dict[str, Any]:
    recipe = context.recipe
    return {
        **environment(),
        "seeds": {
            "run": recipe.seed,
            "problems": recipe.problems.seed,
            "evaluation": recipe.eval.seed,
        },
        "peak_mib": max([peak_mib(), *(marker.peak_mib for marker in markers.values())]),
        "peak_child_mib_at_most": peak_mib(children=True),
    }


def _notes(
    context: Context,
    markers: Mapping[Stage, Marker],
    every: Sequence[Trace],
    water: Waterfall,
) -> list[str]:
    """Sentences that a reader must see."""
    recipe, counts = context.recipe, water.counts
    notes = []
    if len(every) == len(water.reasons):
        notes.append(
            "No trace was kept: no student was trained, and the teacher is scored on the sampled "
            "problems only."
        )
    elif recipe.problems.path is not None and str(recipe.problems.path) != recipe.eval.suite:
        notes.append(
            f"Teacher and student are scored on the suite '{recipe.eval.suite}', not on problems "
            f"of {recipe.problems.path}; eval.suite chooses another."
        )
    for reason, number in markers[Stage.PROBLEMS].counts["removed"].items():
        notes.append(f"{number:,} problems were left out before sampling: {reason}.")
    if number := counts.get(TagName.ENGINE_ERROR, 0):
        error = _last_error(every, water, TagName.ENGINE_ERROR)
        notes.append(
            f"{number:,} samples got no usable answer ({error}); `--from sample` asks again."
        )
    if number := counts.get(TagName.CONTEXT_EXCEEDED, 0):
        error = _last_error(every, water, TagName.CONTEXT_EXCEEDED)
        notes.append(
            f"{number:,} samples do not fit into the teacher's context ({error}); a teacher with a "
            "longer one answers them."
        )
    if number := counts.get("infra_error", 0):
        notes.append(f"{number:,} answers could not be judged; `--from verify` judges again.")
    trained = markers[Stage.TRAIN].counts.get("notes", {}) if Stage.TRAIN in markers else {}
    for reason, number in trained.items():
        notes.append(f"{number:,} rows of the data set in training: {reason}.")
    for stage, marker in markers.items():
        if marker.resumed:
            notes.append(
                f"{stage} had been broken off before; its seconds are those of its last attempt."
            )
    return notes


def _last_error(every: Sequence[Trace], water: Waterfall, reason: str) -> str:
    """What the engine said to the last sample that was removed for a reason."""
    said = [
        trace.completion.error or "no reason was given"
        for trace in every
        if (tag := water.reasons.get(trace.key)) is not None and tag.name == reason
    ]
    return one_line(said[-1], 120)


def _read(path: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found

"""Build and report stages: the kept traces as a data set, and what the run came to.

Reads   everything that the other stages left
Writes  dataset/  run.json  scores.json  report.html
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..eval.prompt import math_prompt
from ..eval.score import Score
from ..teacher.engine import Identity
from . import gather
from .context import Context
from .facts import CardFacts, ReportFacts, Scored, save
from .filters import tag
from .settings import Recipe
from .showcase import Shown, showcase
from .workspace import Stage, write_json


def run_build(context: Context) -> dict[str, Any]:
    """Write the kept traces as Parquet with a card, whole or not at all."""
    from .build import build

    recipe = context.recipe
    traces = gather.sifted(context)
    fall = gather.fall(context, traces)
    kept = [trace for trace in traces if trace.key not in fall.reasons]
    identity = teacher_identity(context)
    card = CardFacts(
        name=recipe.name,
        teacher=in_words(identity),
        settings=recipe.model_dump(mode="json"),
        funnel=fall.steps,
        sources=Counter(trace.problem.source for trace in traces),
        version=__version__,
    )
    with context.console.bar("build", len(kept), "traces") as bar:
        result = build(
            kept,
            context.workspace.dataset,
            card=card,
            identity=identity,
            prompt=lambda problem: math_prompt(problem, recipe.prompt),
        )
        bar.to(result.rows)
    return {"rows": result.rows, "mib": round(result.size_bytes / 2**20, 2)}


def run_report(context: Context) -> dict[str, Any]:
    """Gather the facts, and write them as JSON, as scores and as a page."""
    from .report import write_report

    workspace = context.workspace
    traces = gather.sifted(context)
    fall = gather.fall(context, traces)
    facts = gather.report_facts(context, traces, fall)
    save(facts, workspace.facts)
    whole = asdict(facts)
    write_json(workspace.run_json, {k: _plain(v) for k, v in whole.items() if k != "lengths"})
    write_json(workspace.scores, scores_json(facts, context))
    shown = [with_evidence(each, context.recipe) for each in showcase(traces, fall.reasons)]
    write_report(workspace.root, facts, shown)
    return {"kept": facts.kept, "page": workspace.report.name}


def with_evidence(shown: Shown, recipe: Recipe) -> Shown:
    """A trace to show, with what its filter saw. The ledger keeps the filters' words only."""
    if shown.evidence:
        return shown
    seen = {each.name: each.evidence for each in tag(shown.trace, recipe.filter)}
    return replace(shown, evidence=seen.get(shown.reason, ""))


def scores_json(facts: ReportFacts, context: Context) -> dict[str, Any]:
    """The figures of a run, for programs. A model that was not scored is null."""
    stages = {}
    for stage in Stage:
        marker = context.workspace.marker(stage)
        if marker is not None and marker.skipped is None:
            stages[str(stage)] = {"seconds": marker.seconds, **marker.counts}
    return {
        **{
            name: score_json(facts.scores.get(name))
            for name in ("teacher", "student_before", "student_after", "teacher_on_problems")
        },
        "stages": stages,
        "kept": facts.kept,
        "sampled": facts.sampled,
        "removed": dict(facts.counts),
        "cost": facts.cost,
    }


def score_json(scored: Scored | None) -> dict[str, Any] | None:
    """A score with its interval, as a whole and by source."""
    if scored is None:
        return None
    return {
        **_score(scored.score),
        "suite": scored.suite,
        "by_source": {source: _score(score) for source, score in scored.by_source.items()},
    }


def _score(score: Score) -> dict[str, Any]:
    return {
        "pass@1": round(score.value, 6),
        "n": score.n,
        "ci95": [round(end, 6) for end in score.ci95],
        "samples": score.samples,
        "undecided": score.undecided,
        "truncated": score.truncated,
    }


def teacher_identity(context: Context) -> Identity:
    """Who answered, as the sample stage saw it."""
    marker = context.workspace.marker(Stage.SAMPLE)
    assert marker is not None, "the sample stage comes first"
    return Identity(**marker.counts["teacher"])


def in_words(identity: Identity) -> str:
    """`tiny-r1 (torch)`, with the revision where one was declared."""
    revision = f"@{identity.revision}" if identity.revision else ""
    return f"{identity.model}{revision} ({identity.kind})"


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value

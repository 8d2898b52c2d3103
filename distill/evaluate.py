"""Evaluate stage: teacher, student before and student after, on the same held-out problems.

Reads   student_before/, student/
Writes  eval/teacher.json, eval/student_before.json, eval/student_after.json, and every answer into
        the ledger, so that an evaluation that was broken off goes on where it stopped
"""

from typing import Any

from pydantic import TypeAdapter

from ..eval.evaluate import evaluate
from ..eval.problems import Problem
from ..eval.suites import load_suite
from ..eval.suites.suite import Kind
from ..teacher.collect import Collected
from ..teacher.engine import Sampling
from ..teacher.settings import EngineSettings
from .context import Context
from .facts import Scored
from .workspace import Stage, write_text


def run(context: Context) -> dict[str, Any]:
    """Score every model; return the scores' values."""
    settings = context.recipe.eval
    problems = load_suite(settings.suite, settings.limit, settings.seed, kind=Kind.MATH)
    values: dict[str, Any] = {"problems": len(problems)}
    for name, engine in engines(context).items():
        scored = _score(context, name, engine, problems)
        path = context.workspace.eval / f"{name}.json"
        write_text(path, [TypeAdapter(Scored).dump_json(scored, indent=2).decode(), "\n"])
        values[name] = f"{scored.score.value:.1%}"
    return values


def engines(context: Context) -> dict[str, EngineSettings]:
    """Who is scored. The students' revision is a digest of their weights.

    So answers of a student that was trained again never mix with those of the one before.
    """
    marker = context.workspace.marker(Stage.TRAIN)
    assert marker is not None, "the train stage comes first"
    workspace, batch_size = context.workspace, context.recipe.eval.batch_size
    students = {"student_before": workspace.student_before, "student_after": workspace.student}
    return {
        "teacher": context.recipe.teacher,
        **{
            name: EngineSettings.model_validate(
                {
                    "kind": "torch",
                    "model": str(path),
                    "revision": marker.counts["weights"][name],
                    "batch_size": batch_size,
                }
            )
            for name, path in students.items()
        },
    }


def _score(
    context: Context, name: str, settings: EngineSettings, problems: list[Problem]
) -> Scored:
    """One model's score."""
    recipe = context.recipe
    wanted = len(problems) * recipe.eval.samples
    with (
        context.console.bar(name.replace("_", " "), wanted, "answers") as bar,
        context.parts.open_engine(settings) as engine,
    ):

        def progress(so_far: Collected) -> None:
            if bar.done == 0:
                bar.skip(so_far.already)
            bar.to(so_far.already + so_far.answered)

        result = evaluate(
            engine,
            problems,
            context.ledger,
            sampling=Sampling(recipe.eval.temperature, recipe.eval.top_p, recipe.eval.max_tokens),
            samples=recipe.eval.samples,
            seed=recipe.eval.seed,
            prompt=recipe.prompt,
            workers=recipe.verify.workers,
            timeout_s=recipe.verify.timeout_s,
            progress=progress,
        )
    return Scored(result.score, result.by_source, recipe.eval.suite)

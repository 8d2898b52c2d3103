"""Sample stage: the teacher answers every problem, as often as the recipe wants.

Reads   problems.jsonl
Writes  samples.jsonl, which samples this run consists of; the answers themselves go to the ledger,
        which is asked first, so that nothing is ever sampled twice
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..eval.problems import Problem
from ..eval.prompt import math_prompt
from ..teacher.collect import Collected, collect
from ..teacher.engine import Request, Sampling
from . import problems as problems_stage
from .context import Context
from .settings import Recipe
from .workspace import write_text


@dataclass(frozen=True, slots=True)
class Sample:
    """Which answer of which problem a key of the ledger holds."""

    key: str
    problem_id: str
    index: int


def run(context: Context) -> dict[str, Any]:
    """Ask for every sample that the ledger lacks.

    Raises:
        EngineError: the engine cannot go on; all that was answered stays in the ledger.
    """
    recipe, workspace, ledger = context.recipe, context.workspace, context.ledger
    wanted = requests(recipe, problems_stage.read(workspace.problems))
    with (
        context.console.bar("sample", len(wanted), "samples") as bar,
        context.parts.open_engine(recipe.teacher) as engine,
    ):
        keys = [request.key(engine.identity) for request in wanted]
        reused = len(ledger.done(keys))
        bar.skip(reused)

        def progress(collected: Collected) -> None:
            bar.to(reused + collected.answered, note=f"{collected.failed} failed")

        collect(engine, ledger, wanted, progress=progress)
        identity = engine.identity
    samples = [
        Sample(key, request.problem_id, request.index)
        for key, request in zip(keys, wanted, strict=True)
    ]
    write_text(workspace.samples, (json.dumps(_row(sample)) + "\n" for sample in samples))
    done = len(ledger.done(keys))
    teacher = {"kind": identity.kind, "model": identity.model, "revision": identity.revision}
    return {
        "left": done,
        "removed": {"engine_error": len(keys) - done} if done < len(keys) else {},
        "reused": reused,
        "teacher": teacher,
    }


def requests(recipe: Recipe, problems: Sequence[Problem]) -> list[Request]:
    """Every sample that the recipe wants, problem by problem."""
    sample = recipe.sample
    sampling = Sampling(sample.temperature, sample.top_p, sample.max_tokens)
    return [
        Request(math_prompt(problem, recipe.prompt), sampling, index, recipe.seed, problem.id)
        for problem in problems
        for index in range(sample.samples_per_problem)
    ]


def read(path: Path) -> Iterator[Sample]:
    """Yield the samples that this stage wrote, problem by problem."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield Sample(row["key"], row["problem"], row["index"])


def _row(sample: Sample) -> dict[str, Any]:
    return {"key": sample.key, "problem": sample.problem_id, "index": sample.index}

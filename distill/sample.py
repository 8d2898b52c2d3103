"""Sample stage: the teacher answers every problem, as often as the recipe wants.

Reads   problems.jsonl
Writes  samples.jsonl, which samples this run consists of; the answers themselves go to the ledger,
        which is asked first, so that nothing is ever sampled twice
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..eval.evaluate import sample_seed
from ..eval.problems import Problem
from ..eval.prompt import math_prompt
from ..teacher.collect import Collected, collect
from ..teacher.engine import Request, Sampling
from . import problems as problems_stage
from .context import Context
from .decontaminate import foretell
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
    problems = problems_stage.read(workspace.problems)
    if (warning := foretell(recipe, problems)) is not None:
        context.console.say(f"  note: {warning}")
    wanted = requests(recipe, problems)
    with (
        context.console.bar("sample", len(wanted), "samples") as bar,
        context.parts.open_engine(recipe.teacher) as engine,
    ):
        identity = engine.identity
        keys = [request.key(identity) for request in wanted]

        def progress(so_far: Collected) -> None:
            if bar.done == 0:
                bar.skip(so_far.already)
            bar.to(so_far.already + so_far.answered, note=_note(so_far))

        collected = collect(engine, ledger, wanted, progress=progress)
    samples = [
        Sample(key, request.problem_id, request.index)
        for key, request in zip(keys, wanted, strict=True)
    ]
    write_text(workspace.samples, (json.dumps(_row(sample)) + "\n" for sample in samples))
    return {
        "samples": len(samples),
        "asked": collected.answered + collected.failed,
        "failed": collected.missing,
        "completion_tokens": collected.completion_tokens,
        "teacher": asdict(identity),
    }


def _note(so_far: Collected) -> str:
    """Tokens per second, and what went wrong so far."""
    rate = so_far.completion_tokens / so_far.seconds if so_far.seconds > 0 else 0.0
    words = [f"{rate:,.0f} tokens/s"]
    words += [f"{so_far.truncated:,} cut off"] if so_far.truncated else []
    words += [f"{so_far.failed:,} failed ({so_far.last_error})"] if so_far.failed else []
    return ", ".join(words)


def requests(recipe: Recipe, problems: Sequence[Problem]) -> list[Request]:
    """Every sample that the recipe wants, problem by problem."""
    sample = recipe.sample
    sampling = Sampling(sample.temperature, sample.top_p, sample.max_tokens)
    return [
        Request(
            math_prompt(problem, recipe.prompt),
            sampling,
            index,
            sample_seed(recipe.seed, problem.id, index),
            problem.id,
        )
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

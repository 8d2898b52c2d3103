"""What a run would do: which stages are done, which are not, and why. Pure, apart from reading.

A stage's digest covers the settings that feed it and the digest of the stage before it. A setting
that cannot change a result (how many requests run at a time, say) is no part of it.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import KitError, __version__
from .settings import Recipe
from .workspace import Marker, Stage, Workspace, stages_from

HOW_NOT_WHAT = frozenset(
    {
        "base_url",
        "api_key_env",
        "concurrency",
        "batch_size",
        "timeout_s",
        "retries",
        "stream",
        "device",
    }
)
"""Settings of the teacher that say how it is reached; a change asks for nothing again."""


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of a run that is about to begin.

    Attributes:
        stage: which one.
        digest: what its marker must hold for it to be done.
        marker: what its last run left, whatever its settings were; None where it was never done.
        todo: why it has to be done, or None where it is done.
    """

    stage: Stage
    digest: str
    marker: Marker | None
    todo: str | None


def make_plan(recipe: Recipe, workspace: Workspace, start: Stage | None = None) -> list[Step]:
    """One step per stage, in their order.

    Args:
        start: do this stage and all after it again, also where they are done.

    Raises:
        KitError: a file that the recipe names is not there.
    """
    inputs = stage_inputs(recipe)
    steps: list[Step] = []
    again = frozenset(stages_from(start)) if start is not None else frozenset()
    first: Stage | None = None
    digest = __version__
    for stage in Stage:
        digest = _digest({"inputs": inputs[stage], "before": digest})
        marker = workspace.marker(stage)
        why = _reason(marker, digest, stage in again)
        if first is not None and why != "not done":
            why = f"follows {first}"
        elif first is None and why is not None:
            first = stage
        steps.append(Step(stage, digest, marker, why))
    at = list(Stage).index(Stage.SAMPLE)
    if first is not None and steps[at].todo is None and not workspace.ledger.exists():
        # What is left to do reads the answers. A complete run needs them no more.
        steps = make_plan(recipe, workspace, Stage.SAMPLE)
        steps[at] = replace(steps[at], todo="the ledger is gone")
    return steps


def _reason(marker: Marker | None, digest: str, again: bool) -> str | None:
    """Why one stage has to be done, given that all before it are."""
    if marker is None:
        return "not done"
    if marker.digest != digest:
        return "settings changed"
    return "asked for with --from" if again else None


def stage_inputs(recipe: Recipe) -> dict[Stage, Any]:
    """The settings that feed each stage, as plain values, with the content of files by digest."""
    plain = recipe.model_dump(mode="json")
    suites = dict.fromkeys([recipe.eval.suite, *recipe.decontaminate.suites])
    files = {name: _file_digest(Path(name)) for name in suites if Path(name).is_file()}
    teacher = {k: v for k, v in plain["teacher"].items() if k not in HOW_NOT_WHAT}
    evaluation = {k: v for k, v in plain["eval"].items() if k != "batch_size"}
    problem_file = recipe.problems.path
    return {
        Stage.PROBLEMS: [
            plain["problems"],
            None if problem_file is None else _problem_digest(problem_file),
        ],
        Stage.SAMPLE: [teacher, plain["prompt"], plain["sample"], recipe.seed],
        Stage.VERIFY: recipe.verify.timeout_s,
        Stage.FILTER: plain["filter"],
        Stage.DEDUP: None,
        Stage.DECONTAMINATE: [plain["decontaminate"], evaluation, files],
        Stage.BUILD: recipe.name,
        Stage.TRAIN: [plain["train"], recipe.seed],
        Stage.EVALUATE: [evaluation, files],
        Stage.REPORT: None,
    }


def check_inputs(recipe: Recipe) -> None:
    """Refuse now what would otherwise fail later: a teacher, suite or student that is not there.

    Raises:
        KitError: what is missing, and what may have been meant.
    """
    from ..eval.suites import load_suite
    from ..eval.suites.suite import Kind
    from ..students.settings import BUILT_IN, is_path
    from ..teacher.engines import check_engine

    try:
        check_engine(recipe.teacher)
    except KitError as error:
        raise type(error)(f"teacher: {error}") from error
    load_suite(recipe.eval.suite, limit=1, kind=Kind.MATH)
    for suite in dict.fromkeys(recipe.decontaminate.suites):
        load_suite(suite, limit=1)
    student = recipe.train.model
    if student not in BUILT_IN and is_path(student) and not Path(student).expanduser().is_dir():
        raise KitError(
            f"train.model: {student}: no such directory; built in: {', '.join(BUILT_IN)}; "
            "anything else is a model's directory or a hub id"
        )


def _problem_digest(path: Path) -> str:
    """The content of the problem file, so that an edited file is noticed."""
    try:
        return _file_digest(path)
    except OSError as error:
        from ..eval.problems import load_problems

        load_problems(path, limit=1)  # says it better, and what may have been meant
        raise KitError(f"{path}: cannot be read: {error.strerror}") from error


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def changes(before: Any, after: Any, path: str = "") -> list[str]:
    """Which settings differ, such as `sample.temperature: 0.6 -> 0.8`."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = list(dict.fromkeys([*before, *after]))
        return [
            line
            for key in keys
            for line in changes(
                before.get(key), after.get(key), f"{path}.{key}" if path else str(key)
            )
        ]
    return [] if before == after else [f"{path}: {_brief(before)} -> {_brief(after)}"]


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

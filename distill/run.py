"""The runner: does the stages that are not done, one by one, and can be killed at any time.

A stage is done when its marker says so, and the marker is the last thing that a stage writes. What
is expensive (answers, verdicts) is in the ledger long before that. So a run that was broken off
goes on where it stopped, and a run that is complete does nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from .. import KitError
from ..teacher.environment import peak_mib
from . import facts as facts_module
from .console import Console, duration
from .context import Context, Parts
from .facts import ReportFacts
from .plan import Step, changes, check_inputs, make_plan
from .settings import Recipe
from .workspace import Marker, Stage, Workspace, is_disk_full, write_text

NEEDS_TRACES = frozenset({Stage.BUILD, Stage.TRAIN, Stage.EVALUATE})
"""Stages that have nothing to do where no trace was kept."""


DETAILS = frozenset(
    {"reasons", "sources", "loop_seconds", "parameters", "device", "dtype", "metrics"}
)
"""What a stage has to say that is too much for its line; the report and scores.json have it."""


class NothingKept(KitError):
    """No trace survived, so there is nothing to train on. The message says where they all went."""

    exit_code = 3


class Interrupted(KitError):
    """The run was stopped from outside. The message says what is kept."""

    exit_code = 130


class DiskFull(KitError):
    """No space is left. The message says what could not be written and what is kept."""


class FileRefused(KitError):
    """The file system refused a file. The message names it and says what is kept."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Attributes:
        facts: what the report states; None where the run was to stop before its last stage.
        did: the stages that were done now.
    """

    facts: ReportFacts | None
    did: tuple[Stage, ...]


def run(
    recipe: Recipe,
    workspace: Workspace,
    console: Console,
    *,
    parts: Parts | None = None,
    start: Stage | None = None,
    until: Stage = Stage.REPORT,
) -> Outcome:
    """Do every stage up to `until` that is not done.

    Args:
        parts: what does the work; the default is the real thing.
        start: do this stage and all after it again.

    Raises:
        WorkspaceError: another run is at work in the directory.
        Interrupted, DiskFull: it was stopped; what was finished is kept.
        KitError: whatever else a user can fix, with a note on what is kept.
    """
    workspace.check_it_is_ours()
    if any(step.todo for step in make_plan(recipe, workspace, start)):
        check_inputs(recipe)
    with workspace.hold():
        steps = make_plan(recipe, workspace, start)
        last = list(Stage).index(until)
        todo = [step for step in steps[: last + 1] if step.todo is not None]
        if todo:
            _announce(recipe, workspace, console, steps, todo)
        context = Context(recipe, workspace, console, parts or Parts())
        try:
            for step in todo:
                _do(context, step)
        finally:
            context.close()
        finished = until is Stage.REPORT
        facts = facts_module.load(workspace.facts) if finished else None
        return Outcome(facts, tuple(step.stage for step in todo))


def _announce(
    recipe: Recipe, workspace: Workspace, console: Console, steps: list[Step], todo: list[Step]
) -> None:
    """Say what is about to happen, and put the settings on record."""
    now = recipe.model_dump(mode="json")
    if workspace.settings.exists():
        before = yaml.safe_load(workspace.settings.read_text(encoding="utf-8"))
        for line in changes(before, now):
            console.say(f"  changed: {line}")
    done = [str(step.stage) for step in steps if step.todo is None]
    if done:
        console.say(f"{workspace.root}: done already: {', '.join(done)}")
    names = ", ".join(str(step.stage) for step in todo)
    console.say(f"{workspace.root}: to do: {names}")
    write_text(workspace.settings, [yaml.safe_dump(now, sort_keys=False, allow_unicode=True)])


def _do(context: Context, step: Step) -> None:
    """Do one stage, and write its marker; whatever stops it leaves with a word on what is kept."""
    workspace, stage = context.workspace, step.stage
    began = time.monotonic()
    skipped = _reason_to_skip(workspace, stage)
    try:
        resumed = workspace.begin(stage)
        counts = {} if skipped else stage_function(stage)(context, step.digest)
        seconds = round(time.monotonic() - began, 2)
        workspace.finish(Marker(stage, step.digest, seconds, counts, peak_mib(), resumed, skipped))
    except KeyboardInterrupt:
        raise Interrupted(f"stopped during {stage}. {_kept(context)}") from None
    except KitError as error:
        error.add_note(_kept(context))
        raise
    except Exception as error:
        where = getattr(error, "filename", None)
        if is_disk_full(error):
            what = f"{where or workspace.root}: no space left on the disk, during {stage}."
            raise DiskFull(f"{what} {_kept(context)}") from error
        if isinstance(error, OSError) and where is not None:
            what = f"{where}: {error.strerror}, during {stage}."
            raise FileRefused(f"{what} {_kept(context)}") from error
        raise
    context.console.say(f"  {stage:<14}{summary(counts, skipped):<70} {duration(seconds):>10}")


def _reason_to_skip(workspace: Workspace, stage: Stage) -> str | None:
    """Why a stage has nothing to do, or None where it has."""
    marker = workspace.marker(Stage.DECONTAMINATE)
    if stage in NEEDS_TRACES and marker is not None and marker.counts["left"] == 0:
        return "no trace was kept"
    return None


def _kept(context: Context) -> str:
    """What survives a run that stops now."""
    done = [str(stage) for stage in Stage if context.workspace.marker(stage) is not None]
    parts = [f"done: {', '.join(done)}"] if done else []
    if context.workspace.ledger.exists():
        parts.append(f"answers so far: {context.workspace.ledger}")
    kept = "; ".join(parts) if parts else "nothing was finished yet"
    return f"Kept: {kept}. The same command goes on from there."


def stage_function(stage: Stage) -> Callable[[Context, str], dict[str, Any]]:
    """The function that does a stage. Each stage's modules load when it is its turn."""
    if stage is Stage.PROBLEMS:
        from .problems import run as problems_run

        return lambda context, _: problems_run(context)
    if stage is Stage.SAMPLE:
        from .sample import run as sample_run

        return lambda context, _: sample_run(context)
    if stage is Stage.VERIFY:
        from .verify import run as verify_run

        return lambda context, _: verify_run(context)
    if stage in (Stage.FILTER, Stage.DEDUP, Stage.DECONTAMINATE):
        from . import sift

        return {
            Stage.FILTER: sift.run_filter,
            Stage.DEDUP: sift.run_dedup,
            Stage.DECONTAMINATE: sift.run_decontaminate,
        }[stage]
    if stage is Stage.TRAIN:
        from .train import run as train_run

        return lambda context, _: train_run(context)
    if stage is Stage.EVALUATE:
        from .evaluate import run as evaluate_run

        return lambda context, _: evaluate_run(context)
    from . import outcome

    if stage is Stage.BUILD:
        return lambda context, _: outcome.run_build(context)
    return lambda context, _: outcome.run_report(context)


def summary(counts: dict[str, Any], skipped: str | None) -> str:
    """What a stage came to, in one line."""
    if skipped:
        return f"skipped: {skipped}"
    words = []
    for name, value in counts.items():
        if name in DETAILS:
            continue
        if isinstance(value, dict) and all(isinstance(v, int) for v in value.values()):
            words += [f"{count:,} {_spaced(reason)}" for reason, count in value.items()]
        elif isinstance(value, int) and not isinstance(value, bool):
            words.append(f"{value:,} {_spaced(name)}")
        elif isinstance(value, float | str):
            words.append(f"{_spaced(name)} {value}")
    return ", ".join(words)


def _spaced(name: str) -> str:
    return name.replace("_", " ")

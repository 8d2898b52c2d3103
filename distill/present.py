"""What `r1kit run` shows: the outcome of a run, or, with --dry-run, what a run would do.

Results go to standard output, as tables or as JSON; progress and notices go elsewhere.
"""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from .console import Console, duration
from .context import Parts
from .cost import cost_in_words
from .plan import Step, check_inputs, make_plan
from .run import NothingKept, Outcome, run
from .settings import Recipe
from .workspace import Stage, Workspace

CONTAMINATED = "contaminated"  # `funnel.CONTAMINATED`, without loading what that needs


def run_recipe(
    recipe: Recipe,
    workspace: Workspace,
    console: Console,
    *,
    start: Stage | None = None,
    until: Stage = Stage.REPORT,
    as_json: bool = False,
    parts: Parts | None = None,
) -> None:
    """Run a recipe and show what came of it.

    Raises:
        NothingKept: the run is complete, and no trace survived it.
        KitError: see `run.run`.
    """
    outcome = run(recipe, workspace, console, parts=parts, start=start, until=until)
    if not outcome.did:
        what = "every stage" if until is Stage.REPORT else f"every stage up to {until}"
        console.say(f"{workspace.root}: nothing to do, {what} is done")
    if as_json:
        console.result(json.dumps(_as_json(workspace, outcome), ensure_ascii=False))
    elif outcome.facts is not None:
        from .report import terminal_table

        console.result(terminal_table(outcome.facts))
        console.result(f"report: {workspace.report}")
    _check_something_was_kept(workspace, until)


def _as_json(workspace: Workspace, outcome: Outcome) -> dict[str, Any]:
    """The scores and where things are, or, of a run that stopped early, its stages."""
    if outcome.facts is not None:
        scores: dict[str, Any] = json.loads(workspace.scores.read_text(encoding="utf-8"))
        return {"run": str(workspace.root), "report": str(workspace.report), **scores}
    markers = {stage: workspace.marker(stage) for stage in Stage}
    return {
        "run": str(workspace.root),
        "stages": {
            str(stage): {"seconds": marker.seconds, **marker.counts}
            for stage, marker in markers.items()
            if marker is not None
        },
    }


def _check_something_was_kept(workspace: Workspace, until: Stage) -> None:
    """Complain where a stage was asked for that needs traces, and there are none."""
    order = list(Stage)
    if order.index(until) < order.index(Stage.BUILD):
        return
    marker = workspace.marker(Stage.DECONTAMINATE)
    if marker is None or marker.counts["left"] > 0:
        return
    reasons = marker.counts["reasons"]
    where = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "none sampled"
    hint = ""
    if CONTAMINATED in reasons:
        hint = (
            f" What is {CONTAMINATED} stands in a suite that models are scored on; eval.suite and "
            "decontaminate.suites choose others."
        )
    raise NothingKept(
        f"{workspace.root}: no trace was kept of {sum(reasons.values()):,} sampled: {where}. "
        f"Nothing was trained. All answers stay in {workspace.ledger}; a changed filter, more "
        "samples or another teacher goes on from them." + hint
    )


def describe(
    recipe: Recipe,
    workspace: Workspace,
    console: Console,
    *,
    start: Stage | None = None,
    as_json: bool = False,
) -> None:
    """Show the stages, what is done already, and what the rest may take. Writes nothing.

    Raises:
        KitError: something that the recipe names is not there or cannot be read.
    """
    workspace.check_it_is_ours()
    steps = make_plan(recipe, workspace, start)
    if any(step.todo for step in steps):
        check_inputs(recipe)
    estimate = expect(recipe, workspace, steps)
    if as_json:
        stages = {str(step.stage): step.todo or "done" for step in steps}
        plan = {"run": str(workspace.root), "stages": stages, **estimate}
        console.result(json.dumps(plan, ensure_ascii=False))
        return
    table = Table(title=f"{workspace.root}: what a run would do", title_justify="left")
    for column in ("stage", "state", "last time"):
        table.add_column(column)
    for step in steps:
        last = "" if step.marker is None else duration(step.marker.seconds)
        table.add_row(str(step.stage), step.todo or "done", last)
    console.result(table)
    for name, value in estimate.items():
        console.result(f"{name.replace('_', ' ')}: {value}")


def expect(recipe: Recipe, workspace: Workspace, steps: list[Step]) -> dict[str, str]:
    """Problems, samples, tokens, time and cost of what sampling has left to do, in words."""
    sampling = next(step for step in steps if step.stage is Stage.SAMPLE)
    if sampling.todo is None:
        return {
            "samples": "all are in the ledger",
            "tokens": "0",
            "time_of_sampling": duration(0),
            "cost": cost_in_words(recipe.teacher),
        }
    from .decontaminate import foretell
    from .problems import find, without_repeats

    problems, _ = without_repeats(find(recipe.problems))
    warning = foretell(recipe, problems)
    wanted = len(problems) * recipe.sample.samples_per_problem
    held, mean = _held(workspace.ledger)
    if mean is None:
        tokens = wanted * recipe.sample.max_tokens
        tokens_in_words = f"at most {tokens:,} ({recipe.sample.max_tokens:,} each)"
    else:
        tokens = round(wanted * mean)
        tokens_in_words = (
            f"about {tokens:,} ({mean:,.0f} each, the mean of {held:,} answers so far)"
        )
    rate = _rate(sampling)
    if rate is None:
        time = "unknown: nothing was sampled here yet to measure a rate"
    else:
        bound = "at most " if mean is None else "about "
        time = f"{bound}{duration(tokens / rate)} at {rate:,.0f} tokens/s, measured here last time"
    return {
        "problems": f"{len(problems):,}",
        "samples": f"{wanted:,}; what the ledger has of them is not asked again",
        "tokens": tokens_in_words,
        "time_of_sampling": time,
        "cost": cost_in_words(recipe.teacher),
        **({} if warning is None else {"note": warning}),
    }


def _held(path: Path) -> tuple[int, float | None]:
    """Answers in the ledger, and their mean length in tokens; None where there is none."""
    if not path.exists():
        return 0, None
    from ..teacher.ledger import Ledger

    with Ledger.open(path, write=False) as ledger:
        counts = ledger.counts()
    if counts.completions == 0:
        return 0, None
    return counts.completions, counts.completion_tokens / counts.completions


def _rate(sampling: Step) -> float | None:
    """Completion tokens per second of the last finished sampling in this directory."""
    marker = sampling.marker
    if marker is None or marker.seconds <= 0:
        return None
    tokens = int(marker.counts.get("completion_tokens", 0))
    return tokens / marker.seconds if tokens > 0 else None

"""The plan: which settings feed which stage, and what has to be done again."""

import json
from pathlib import Path

import pytest
import yaml
from r1kit import KitError
from r1kit.distill.plan import changes, check_inputs, make_plan, stage_inputs
from r1kit.distill.recipe import builtin_names, load
from r1kit.distill.settings import Recipe
from r1kit.distill.workspace import Marker, Stage, Workspace, stages_from


def digests(overrides: list[str], root: Path) -> dict[Stage, str]:
    steps = make_plan(load("quickstart", overrides), Workspace(root))
    return {step.stage: step.digest for step in steps}


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("problems.train=3", Stage.PROBLEMS),
        ("seed=1", Stage.SAMPLE),
        ("teacher.model=other", Stage.SAMPLE),
        ("teacher.max_length=512", Stage.SAMPLE),
        ("prompt.prefill=", Stage.SAMPLE),
        ("sample.top_p=0.9", Stage.SAMPLE),
        ("verify.timeout_s=3", Stage.VERIFY),
        ("filter.require_box=false", Stage.FILTER),
        ("decontaminate.n=8", Stage.DECONTAMINATE),
        ("eval.limit=7", Stage.DECONTAMINATE),
        ("name=other", Stage.BUILD),
        ("train.epochs=1", Stage.TRAIN),
    ],
)
def test_a_setting_changes_the_stage_that_it_feeds_and_all_after_it(
    override: str, first: Stage, tmp_path: Path
) -> None:
    before, after = digests([], tmp_path / "run"), digests([override], tmp_path / "run")
    changed = [stage for stage in Stage if before[stage] != after[stage]]
    assert changed == stages_from(first)


@pytest.mark.parametrize(
    "override",
    ["teacher.batch_size=7", "teacher.concurrency=3", "teacher.retries=1", "teacher.device=cpu"],
)
def test_how_the_teacher_is_reached_changes_nothing(override: str, tmp_path: Path) -> None:
    assert digests([], tmp_path / "run") == digests([override], tmp_path / "run")


def test_every_step_says_why_it_is_done(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "run")
    recipe = load("quickstart", [])
    with workspace.hold():
        for step in make_plan(recipe, workspace):
            if step.stage is not Stage.REPORT:
                workspace.finish(Marker(step.stage, step.digest, 0))
    why = {step.stage: step.todo for step in make_plan(recipe, workspace)}
    assert why[Stage.SAMPLE] == "the ledger is gone" and why[Stage.PROBLEMS] is None
    workspace.ledger.touch()
    why = {step.stage: step.todo for step in make_plan(recipe, workspace)}
    assert set(why.values()) == {None, "not done"} and why[Stage.REPORT] == "not done"
    again = {step.stage: step.todo for step in make_plan(recipe, workspace, Stage.TRAIN)}
    assert again[Stage.BUILD] is None
    assert again[Stage.TRAIN] == "asked for with --from"
    assert again[Stage.EVALUATE] == "follows train"
    hotter = load("quickstart", ["sample.temperature=1"])
    changed = {step.stage: step.todo for step in make_plan(hotter, workspace)}
    assert changed[Stage.PROBLEMS] is None
    assert changed[Stage.SAMPLE] == "settings changed"
    assert changed[Stage.EVALUATE] == "follows sample"


def test_what_would_fail_late_is_refused_early(tmp_path: Path) -> None:
    check_inputs(load("quickstart", []))
    check_inputs(load("quickstart", ["train.model=some/hub-id"]))
    with pytest.raises(KitError, match="neither a suite"):
        check_inputs(load("quickstart", ["decontaminate.suites=[tny]"]))
    with pytest.raises(KitError, match=r"train\.model: .*gone: no such directory"):
        check_inputs(load("quickstart", [f"train.model={tmp_path}/gone"]))


def test_changes_are_told_by_the_settings_name() -> None:
    before = {"sample": {"temperature": 0.6, "top_p": 1.0}, "name": "a"}
    after = {"sample": {"temperature": 0.8, "top_p": 1.0}, "name": "a", "seed": 1}
    assert changes(before, after) == ["sample.temperature: 0.6 -> 0.8", "seed: null -> 1"]


@pytest.mark.parametrize("name", builtin_names())
def test_the_settings_that_a_run_has_stored_mean_the_same_run(name: str) -> None:
    recipe = load(name, [])
    stored = yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))
    again = Recipe.model_validate(stored)
    for stage, inputs in stage_inputs(recipe).items():
        assert json.dumps(stage_inputs(again)[stage]) == json.dumps(inputs), stage

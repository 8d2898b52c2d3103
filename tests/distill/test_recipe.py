"""Recipes: what is read, what wins, and what a mistake is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from r1kit.distill.recipe import RecipeError, builtin_names, load
from r1kit.distill.settings import Recipe
from r1kit.distill.wording import section_of


def test_every_built_in_recipe_loads_by_its_name() -> None:
    assert "quickstart" in builtin_names()
    for name in builtin_names():
        assert load(name, []).name == name


def test_a_later_source_wins(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nproblems: p.jsonl\nsample: {temperature: 0.7, top_p: 0.5}\n")
    recipe = load(str(path), ["sample.temperature=0.9", "sample.temperature=1.1"])
    assert (recipe.sample.temperature, recipe.sample.top_p) == (1.1, 0.5)
    assert recipe.sample.max_tokens == 32_768
    assert recipe.problems.path == Path("p.jsonl")


def test_a_problem_file_replaces_the_generator() -> None:
    recipe = load("quickstart", ["problems=../x.jsonl", "problems.fields.answer=gold"])
    assert recipe.problems.path == Path("../x.jsonl")
    assert recipe.problems.generator is None
    assert recipe.problems.fields.named() == {"answer": "gold"}
    assert recipe.eval.suite == "tiny"


def test_a_problem_file_and_its_fields_may_be_given_in_any_order() -> None:
    overrides = ["problems.fields.answer=gold", "problems.limit=3", "problems=~/x.jsonl"]
    for order in (overrides, overrides[::-1]):
        problems = load("quickstart", order).problems
        assert problems.fields.named() == {"answer": "gold"}
        assert (problems.limit, problems.path) == (3, Path.home() / "x.jsonl")


def test_text_settings_take_the_text_as_it_is() -> None:
    overrides = ["teacher.revision=0123", "prompt.template={statement}", "name=7"]
    recipe = load("quickstart", overrides)
    assert (recipe.teacher.revision, recipe.name) == ("0123", "7")
    assert recipe.prompt.template == "{statement}"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "sample.temprature=1",
            "--set sample.temprature: unknown setting; did you mean 'temperature'?",
        ),
        ("sampel.temperature=1", "--set sampel: unknown setting; did you mean 'sample'?"),
        ("sample.temperature=warm", "--set sample.temperature: must be a number, got 'warm'"),
        ("sample.temperature=3", "--set sample.temperature: must be at most 2.0, got 3"),
        ("sample.max_tokens=1.5", "--set sample.max_tokens: must be a whole number, got 1.5"),
        ("sample.max_tokens=", "--set sample.max_tokens: must be a whole number, got nothing"),
        ("sample.max_tokens", "--set needs key=value, got 'sample.max_tokens'"),
        ("sample=3", "--set sample: must be a section of settings, got 3"),
        ("seed.x=1", "--set seed.x: seed is no section, it is 0"),
        (
            "teacher.kind=torhc",
            "--set teacher.kind: must be 'torch' or 'openai', got 'torhc'; did you mean 'torch'?",
        ),
        ("problems.families=gcd", "--set problems.families: must be a list, got 'gcd'"),
        (
            "problems.fields.anser=x",
            "--set problems.fields.anser: unknown setting; did you mean 'answer'?",
        ),
        ("problems.path=x.jsonl", "--set problems: give either path or generator, got path"),
        ("problems=null", "--set problems: must be a section of settings, got nothing"),
        (
            "problems.fields.answer=gold",
            "--set problems: fields name the columns of a file, and there is no path; got answer",
        ),
        (
            "filter.exclude=[wrongg]",
            "--set filter.exclude.0: must be 'engine_error', 'context_exceeded', 'truncated'",
        ),
        ("teacher.timeout_s=.inf", "--set teacher.timeout_s: must be a finite number, got inf"),
        ("train.epochs=.nan", "--set train.epochs: must be a finite number, got nan"),
        ("sample={a: [}", "--set sample: not YAML: '{a: [}'; quote it?"),
        ("prompt.template=hello", "--set prompt.template: needs {statement}"),
    ],
)
def test_a_wrong_override_is_named_with_what_was_found(override: str, says: str) -> None:
    with pytest.raises(RecipeError) as error:
        load("quickstart", [override])
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "name: a\nproblems: p\nsample: {temprature: 1}\n",
            "a.yaml: sample.temprature: unknown setting; did you mean 'temperature'?",
        ),
        ("name: a\nproblems: p\nzzz: 1\n", "a.yaml: zzz: unknown setting; known here: decontam"),
        ("problems: p\n", "a.yaml: name: is missing"),
        ("name: a\n", "a.yaml: problems: is missing"),
        ("name: a\nproblems: {limit: 3}\n", "a.yaml: problems: give path: FILE.jsonl or generator"),
        ("name: a\nproblems: p\nseed: x y\n", "a.yaml: seed: must be a whole number, got 'x y'"),
        ("name: a\nproblems: [p\nseed: 1\n", "a.yaml:3: not YAML: expected ',' or ']'"),
        ("name: a\nname: b\n", "a.yaml:2: not YAML: the key 'name' is given twice"),
        ("- a\n", "a.yaml: must hold settings as `key: value`, got ['a']"),
        ("", "a.yaml: must hold settings as `key: value`, got nothing"),
        ("name: a/b\nproblems: p\n", "a.yaml: name: string should match pattern"),
    ],
)
def test_a_wrong_recipe_is_named_with_its_place(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text)
    with pytest.raises(RecipeError) as error:
        load("a.yaml", [])
    assert str(error.value).startswith(says)


def test_every_complaint_has_a_line_of_its_own() -> None:
    with pytest.raises(RecipeError) as error:
        load("quickstart", ["sample.top_p=2", "eval.smaples=1"])
    assert str(error.value).splitlines() == [
        "--set sample.top_p: must be at most 1.0, got 2",
        "--set eval.smaples: unknown setting; did you mean 'samples'?",
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quikstart", "no recipe is named 'quikstart'; did you mean 'quickstart'? Built in: "),
        ("nosuch.yaml", "nosuch.yaml: cannot be read: No such file or directory"),
        ("nosuch/dir", "nosuch/dir: cannot be read: No such file or directory"),
        ("binary.yaml", "binary.yaml: not UTF-8 text"),
    ],
)
def test_a_recipe_that_is_not_there_is_named(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError) as error:
        load(name, [])
    assert str(error.value).startswith(says)


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, field in model.model_fields.items():
        if (inner := section_of(field.annotation)) is not None:
            yield from sections(inner, f"{path}.{name}".lstrip("."))


@pytest.mark.parametrize(("path", "model"), list(sections(Recipe)), ids=lambda value: str(value))
def test_every_setting_is_described_and_no_section_can_be_changed(
    path: str, model: type[BaseModel]
) -> None:
    assert model.model_config.get("extra") == "forbid", path
    assert model.model_config.get("frozen") is True, path
    for name, field in model.model_fields.items():
        assert field.description, f"{path}.{name}"


def test_what_is_stored_is_read_back_the_same() -> None:
    recipe = load("quickstart", ["problems=x.jsonl"])
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe

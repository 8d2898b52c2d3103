"""Suites: generated ones are held out and balanced, files are suites, wrong names get a hint."""

from pathlib import Path

import pytest
from r1kit.eval.problems import ProblemsError
from r1kit.eval.suites import load_suite, suite_names
from r1kit.eval.suites.suite import Kind
from r1kit.eval.suites.tiny import PER_FAMILY
from r1kit.teacher.tiny.families import FAMILIES, generate


def test_tiny_is_every_family_evenly_and_of_the_test_split() -> None:
    problems = load_suite("tiny")
    assert len(problems) == PER_FAMILY * len(FAMILIES)
    assert {problem.source for problem in problems} == {f"tiny/{name}" for name in FAMILIES}
    assert {problem.split for problem in problems} == {"test"}
    assert len({problem.id for problem in problems}) == len(problems)
    train = {p.statement for name in FAMILIES for p in generate(name, 200, 0, "train")}
    assert not train & {problem.statement for problem in problems}


def test_a_limit_is_shared_among_the_families() -> None:
    count = len(FAMILIES) + 2
    sources = [problem.source for problem in load_suite("tiny", limit=count)]
    assert len(sources) == count
    assert sorted(sources.count(f"tiny/{name}") for name in FAMILIES)[-1] == 2
    assert len(load_suite("tiny", limit=1)) == 1


def test_the_seed_chooses_the_problems() -> None:
    assert load_suite("tiny", 10, 1) == load_suite("tiny", 10, 1)
    assert load_suite("tiny", 10, 1) != load_suite("tiny", 10, 2)


def test_one_family_and_a_file_are_suites(tmp_path: Path) -> None:
    name = suite_names()[1]
    assert {problem.source for problem in load_suite(name, 3)} == {name}
    path = tmp_path / "own.jsonl"
    path.write_text('{"problem": "p", "answer": "1"}\n{"problem": "q", "answer": "2"}\n')
    problems = load_suite(str(path), limit=1)
    assert [(p.statement, p.source, p.split) for p in problems] == [("p", "own", "test")]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tinny", "did you mean 'tiny'"),
        ("math50o", r"neither a suite \(tiny, .*did you mean 'math500'"),
        ("absent.jsonl", "no such file"),
    ],
)
def test_a_wrong_name_gets_a_hint(name: str, says: str) -> None:
    with pytest.raises(ProblemsError, match=says):
        load_suite(name)


def test_a_misspelled_family_gets_a_hint() -> None:
    family = suite_names()[1]
    with pytest.raises(ProblemsError, match=f"did you mean '{family}'"):
        load_suite(family[:-1])


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ProblemsError, match="limit must be at least 1, got 0"):
        load_suite("tiny", 0)


def test_a_caller_that_can_judge_one_kind_refuses_the_others(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "q", "choices": ["x", "y"], "answer": 0}\n')
    assert len(load_suite(path)) == 1
    with pytest.raises(ProblemsError, match="are judged as choice, and only math will do here"):
        load_suite(path, kind=Kind.MATH)

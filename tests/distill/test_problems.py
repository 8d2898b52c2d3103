"""The problems stage: balanced, without repeats, and clear about what it cannot generate."""

import dataclasses
import random

import pytest
from r1kit import KitError
from r1kit.distill.problems import find, without_repeats
from r1kit.distill.settings import ProblemSettings
from r1kit.eval.problems import Problem
from r1kit.teacher.tiny.families import FAMILIES


def test_generated_families_take_turns_so_any_front_part_is_balanced() -> None:
    count = len(FAMILIES)
    problems = find(ProblemSettings(generator="tiny", train=5, limit=3 * count))
    assert [p.source for p in problems[:count]] == [f"tiny/{name}" for name in sorted(FAMILIES)]
    assert {p.source: sum(q.source == p.source for q in problems) for p in problems} == {
        f"tiny/{name}": 3 for name in FAMILIES
    }


def test_the_same_seed_generates_the_same_problems() -> None:
    settings = ProblemSettings(generator="tiny", train=4, seed=7)
    assert find(settings) == find(settings)
    assert find(settings) != find(ProblemSettings(generator="tiny", train=4, seed=8))


def test_repeats_are_left_out_and_counted_by_whether_they_agree() -> None:
    problems = [
        Problem("a", "1+1?", "2", "s"),
        Problem("b", "1+1?", "2", "s"),
        Problem("c", "1+1?", "3", "s"),
        Problem("d", "2+2?", "4", "s"),
    ]
    kept, removed = without_repeats(problems)
    assert [problem.id for problem in kept] == ["a", "d"]
    assert removed == {"repeated": 1, "repeated with another answer": 1}


def test_a_family_that_does_not_exist_is_named() -> None:
    with pytest.raises(KitError, match=r"problems\.families: there is no family 'gdc'"):
        find(ProblemSettings(generator="tiny", families=("gdc",)))


def test_more_problems_than_a_family_has_is_an_error_of_its_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = sorted(FAMILIES)[0]
    one = FAMILIES[family].draw(random.Random(0))
    only = dataclasses.replace(FAMILIES[family], draw=lambda rng: one)
    monkeypatch.setitem(FAMILIES, family, only)
    with pytest.raises(KitError, match=r"problems\.train: family .* has too few train problems"):
        find(ProblemSettings(generator="tiny", families=(family,), train=2))

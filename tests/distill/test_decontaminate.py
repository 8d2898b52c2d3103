"""Decontamination of traces: what is found is named in full, and look-alikes stay."""

import pytest
from r1kit.distill import decontaminate
from r1kit.distill.decontaminate import contaminated
from r1kit.distill.trace import Trace
from r1kit.eval.contamination import Hit, Index
from r1kit.eval.problems import Problem
from r1kit.teacher.engine import Completion, Finish
from r1kit.teacher.tiny.families import FAMILIES, generate

LONG = (
    "Ann walks from the red house to the old mill along the river and back again every Sunday; "
    "the way is 4 km long. How far does she walk in a year of 52 weeks?"
)
SUITE = {
    "walks": [Problem("w1", LONG, "416", "walks", split="test")],
    "sums": [Problem("s1", "What is 17 plus 25?", "42", "sums", split="test")],
}


def trace(key: str, statement: str) -> Trace:
    problem = Problem(f"p-{key}", statement, "1", "mine")
    return Trace(problem, key, 0, Completion("x", "", "x", Finish.STOP, 1, 1))


def test_the_evidence_names_suite_problem_and_words() -> None:
    found = contaminated([trace("a", f"Solve this. {LONG} Explain."), trace("b", "Hi")], SUITE)
    assert list(found) == ["a"]
    assert found["a"].startswith("walks, problem w1: 'Ann walks from the red house")
    assert found["a"].endswith("52 weeks'")
    assert len(found["a"]) < 160


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("what is 17 plus 25", True),
        ("What is 17 plus 26?", False),
        ("Tell me: what is 17 plus 25?", False),
        (" ".join(LONG.split()[3:15]), False),
        (" ".join(LONG.split()[3:16]), True),
    ],
    ids=["short-same", "short-other", "short-inside", "twelve-words", "thirteen-words"],
)
def test_thirteen_words_or_the_whole_of_a_short_statement(statement: str, found: bool) -> None:
    assert bool(contaminated([trace("a", statement)], SUITE)) == found


def test_the_embedded_splits_do_not_contaminate_each_other() -> None:
    for family in FAMILIES:
        test = [
            Problem(p.id, p.statement, p.answer, family, split="test")
            for p in generate(family, 40, seed=1, split="test")
        ]
        train = [trace(p.id, p.statement) for p in generate(family, 200, seed=1, split="train")]
        assert contaminated(train, {family: test}) == {}
        again = [trace(p.id, p.statement) for p in test]
        assert len(contaminated(again, {family: test})) == 40


def test_a_statement_is_looked_up_once_for_all_its_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    class Counting(Index):
        def hits(self, statement: str) -> Hit | None:
            asked.append(statement)
            return super().hits(statement)

    monkeypatch.setattr(decontaminate, "Index", Counting)
    found = contaminated([trace(str(k), LONG) for k in range(5)], SUITE)
    assert set(found) == set("01234")
    assert asked == [LONG]


def test_no_suite_finds_nothing() -> None:
    assert contaminated([trace("a", LONG)], {}) == {}

"""Answer classes: what the judge calls the same is one class, whatever its spelling, at a bound."""

import itertools
from collections.abc import Sequence

from r1kit.eval.choice import ChoiceJudge
from r1kit.eval.classes import MOST, answer_classes
from r1kit.eval.evaluate import Row
from r1kit.eval.judge import Judge, MathJudge
from r1kit.eval.math.extract import Rule
from r1kit.eval.math.verify import Judgement
from r1kit.eval.problems import Problem
from r1kit.eval.verdict import Verdict
from r1kit.teacher.engine import Finish

SUM = Problem("p", "?", "7", "s")
OTHER = Problem("q", "?", "8", "s")


def rows(*answers: str, problem: Problem = SUM) -> list[Row]:
    """Rows of one problem: its own answer is right, all else is wrong."""
    return [
        Row(
            problem,
            index,
            f"{problem.id}{index}",
            Judgement(
                Verdict.CORRECT if answer in (problem.answer, "7.0") else Verdict.WRONG,
                answer,
                Rule.BOXED,
                "",
            ),
            Finish.STOP,
            1,
        )
        for index, answer in enumerate(answers)
    ]


def groups(found: Sequence[Row], judge: Judge) -> list[list[str]]:
    """The extracted answers, class by class."""
    classes = answer_classes(found, judge).by_key
    named = sorted(
        (name, row.judgement.extracted) for row in found if (name := classes.get(row.key))
    )
    return [
        [text for _, text in part] for _, part in itertools.groupby(named, lambda pair: pair[0])
    ]


def test_spellings_of_one_answer_are_one_class() -> None:
    found = rows("7", r"\frac{1}{2}", "0.5", "7.0", "1 / 2", "3", "", "3 ", r"\frac12")
    assert sorted(map(sorted, groups(found, MathJudge(workers=1)))) == [
        ["0.5", "1 / 2", r"\frac12", r"\frac{1}{2}"],
        ["3", "3 "],
        ["7", "7.0"],
    ]


def test_equal_answers_to_different_problems_are_never_compared() -> None:
    asked: list[tuple[str, str, str]] = []

    class Noting(MathJudge):
        def alike(self, pairs: Sequence[tuple[Problem, str, str]]) -> list[bool] | None:
            asked.extend((problem.id, one, other) for problem, one, other in pairs)
            return super().alike(pairs)

    found = [*rows("3", "4", "7"), *rows("3", "0.5", problem=OTHER)]
    answer_classes(found, Noting())
    assert asked == [("p", "3", "4"), ("q", "3", "0.5")]  # right answers need no comparison


def test_cut_off_answers_have_no_class() -> None:
    (row,) = rows("3")
    cut = Row(row.problem, 0, "k", row.judgement, Finish.LENGTH, 1)
    assert answer_classes([cut], MathJudge()).by_key == {}


def test_the_number_of_comparisons_is_bounded_and_what_is_left_out_is_counted() -> None:
    pairs_asked: list[int] = []

    class Counting(MathJudge):
        def alike(self, pairs: Sequence[tuple[Problem, str, str]]) -> list[bool] | None:
            pairs_asked.append(len(pairs))
            return [False] * len(pairs)

    many = [str(100 + n) for n in range(MOST + 5)]
    classes = answer_classes(rows(*many, *many[:MOST]), Counting())
    assert pairs_asked == [MOST * (MOST - 1) // 2] and classes.uncompared == 5
    assert len(set(classes.by_key.values())) == MOST + 5


def test_options_are_classes_of_their_own() -> None:
    assert groups(rows("7", "x", "x", "y"), ChoiceJudge()) == [["x", "x"], ["y"], ["7"]]


def test_a_judge_that_cannot_compare_forms_no_classes() -> None:
    class Silent(MathJudge):
        def alike(self, pairs: Sequence[tuple[Problem, str, str]]) -> list[bool] | None:
            return None

    assert answer_classes(rows("3", "3"), Silent()).by_key == {}


def test_chains_of_equal_answers_end_in_one_class() -> None:
    class Chained(MathJudge):
        """a = b and b = c are seen, a = c is not."""

        def alike(self, pairs: Sequence[tuple[Problem, str, str]]) -> list[bool] | None:
            return [(one, other) in (("a", "b"), ("b", "c")) for _, one, other in pairs]

    assert groups(rows("a", "b", "c", "d"), Chained()) == [["a", "b", "c"], ["d"]]

"""Scores: what counts, what is shown, and how wide the interval is."""

import math
import random

import pytest
from r1kit.eval.score import ScoreError, pass_at_1, wilson
from r1kit.eval.verdict import Verdict

C, W, U, I = Verdict.CORRECT, Verdict.WRONG, Verdict.UNVERIFIABLE, Verdict.INFRA_ERROR  # noqa: E741


def test_one_sample_each_gives_the_share_and_wilsons_interval() -> None:
    score = pass_at_1({str(i): [C if i < 8 else W] for i in range(10)})
    assert (score.value, score.n, score.samples) == (0.8, 10, 1)
    # Wilson's interval for 8 of 10, by its closed form.
    z = 1.959963984540054
    centre = (8 + z * z / 2) / (10 + z * z)
    half = z / (10 + z * z) * math.sqrt(8 * 2 / 10 + z * z / 4)
    assert score.ci95 == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert score.ci95 == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_all_right_and_all_wrong_are_not_certain() -> None:
    low = 30 / (30 + 1.959963984540054**2)
    assert wilson(1.0, 30) == pytest.approx((low, 1.0), abs=1e-12)
    assert wilson(0.0, 30) == pytest.approx((0.0, 1 - low), abs=1e-12)
    score = pass_at_1({str(i): [C, C, C] for i in range(30)})
    assert score.ci95 == pytest.approx((low, 1.0), abs=1e-12)


def test_undecided_answers_count_as_not_right_and_are_shown() -> None:
    score = pass_at_1({"a": [C], "b": [U], "c": [I], "d": [W]}, truncated=1)
    assert (score.value, score.undecided, score.truncated) == (0.25, 2, 1)


def test_several_samples_are_averaged_within_each_problem_first() -> None:
    score = pass_at_1({"a": [C, C, C, C], "b": [W, W]})
    assert (score.value, score.n, score.samples) == (0.5, 2, 4)


def test_the_interval_widens_with_the_problems_not_with_the_samples() -> None:
    rng = random.Random(0)
    shares = [rng.random() for _ in range(200)]
    verdicts = {
        str(i): [C if rng.random() < share else W for _ in range(16)]
        for i, share in enumerate(shares)
    }
    score = pass_at_1(verdicts)
    means = [sum(v is C for v in each) / 16 for each in verdicts.values()]
    spread = math.sqrt(sum((m - score.value) ** 2 for m in means) / 199 / 200)
    width = score.ci95[1] - score.ci95[0]
    assert width == pytest.approx(2 * 1.972 * spread, rel=0.02)
    assert width > 1.5 * 2 * 1.96 * math.sqrt(score.value * (1 - score.value) / (200 * 16))


def test_nothing_to_score_is_an_error_with_a_sentence() -> None:
    with pytest.raises(ScoreError, match="at least one problem, got none"):
        pass_at_1({})
    with pytest.raises(ScoreError, match="problem 'a' has no samples"):
        pass_at_1({"a": []})

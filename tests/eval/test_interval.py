"""Intervals: their closed forms, their limits, and how often they hold the truth."""

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from r1kit.eval.interval import (
    WILSON,
    WILSON_CLUSTERED,
    estimate,
    estimate_with_reruns,
    sample_variances,
    wilson,
)
from r1kit.eval.student_t import Z95, p_two_sided, t95

Floats = NDArray[np.float64]
RUNS = 2000


def test_students_t_has_its_published_points() -> None:
    # Student's table, two-sided 5 %: 1, 2, 10, 29 degrees of freedom, and the normal limit.
    for df, point in ((1, 12.7062), (2, 4.30265), (10, 2.22814), (29, 2.04523), (10**7, 1.95996)):
        assert t95(df) == pytest.approx(point, abs=5e-5)
    # With one degree it is Cauchy's distribution, with two it has a closed form as well.
    assert p_two_sided(3.0, 1) == pytest.approx(1 - 2 * math.atan(3) / math.pi, rel=1e-12)
    assert p_two_sided(3.0, 2) == pytest.approx(1 - 3 / math.sqrt(2 + 9), rel=1e-12)
    assert (p_two_sided(0.0, 5), p_two_sided(math.inf, 5), p_two_sided(1e200, 5)) == (1, 0, 0)
    # The logarithms of the gamma function grow with df, and their rounding with them.
    assert p_two_sided(2.0, 10**6) == pytest.approx(math.erfc(math.sqrt(2)), rel=1e-5)


@settings(max_examples=60)
@given(st.floats(0.01, 40), st.floats(0.5, 3000))
def test_students_t_is_the_incomplete_beta_function(t: float, df: float) -> None:
    want = mpmath.betainc(df / 2, 0.5, 0, df / (df + t * t), regularized=True)
    assert p_two_sided(t, df) == pytest.approx(float(want), rel=1e-10, abs=1e-300)
    assert p_two_sided(-t, df) == p_two_sided(t, df)


def test_one_sample_per_problem_is_wilsons_interval() -> None:
    found = estimate([1.0] * 8 + [0.0] * 2, [1] * 10)
    assert (found.value, found.estimator) == (0.8, WILSON)
    centre, half = (8 + Z95**2 / 2) / (10 + Z95**2), Z95 * math.sqrt(1.6 + Z95**2 / 4)
    low, high = centre - half / (10 + Z95**2), centre + half / (10 + Z95**2)
    assert found.ci95 == pytest.approx((low, high), abs=1e-12)
    assert found.se == pytest.approx(math.sqrt(0.8 * 0.2 / 9), abs=1e-12)


def test_the_standard_error_is_clustered_by_problem() -> None:
    # Shares 1, 1/2, 0: variance 1/4 over the three, so the mean's error is sqrt(1/12).
    found = estimate_with_reruns([4, 2, 0], [4, 4, 4])
    assert found.value == 0.5
    assert found.se == pytest.approx(math.sqrt(1 / 12), abs=1e-12)
    # Only the middle problem varies between reruns: p (1 - p) / (k - 1) = 1/12, over n = 3.
    assert found.se_rerun == pytest.approx(math.sqrt(1 / 12) / 3, abs=1e-12)
    assert found.se_question == pytest.approx(math.sqrt(1 / 12 - 1 / 108), abs=1e-12)
    assert found.estimator == WILSON_CLUSTERED
    squares, variance = 0.5, 0.75
    ratio = (squares + 0.1) / (variance + 0.1)
    assert found.ci95 == pytest.approx(wilson(0.5, 3 / ratio, t95(2)), abs=1e-12)


def test_all_alike_is_not_certain() -> None:
    low = 30 / (30 + Z95**2)
    assert estimate_with_reruns([3] * 30, [3] * 30).ci95 == pytest.approx((low, 1.0), abs=1e-12)
    assert estimate([0.0] * 30, [3] * 30).ci95 == pytest.approx((0.0, 1 - low), abs=1e-12)
    low, high = estimate([0.5] * 30, [4] * 30).ci95
    assert low == pytest.approx(wilson(0.5, 120, t95(29))[0], abs=1e-12)  # n k tosses, no more
    assert high - low > 0.15


def test_nearly_all_right_is_about_as_certain_as_all_right() -> None:
    every = estimate_with_reruns([64] * 30, [64] * 30).ci95[0]
    nearly = estimate_with_reruns([64] * 29 + [63], [64] * 30).ci95[0]
    assert nearly == pytest.approx(every, abs=0.02)


def test_one_sample_cannot_tell_rerun_noise_and_says_so() -> None:
    found = estimate_with_reruns([1, 0, 1], [1, 1, 1])
    assert (found.se_rerun, found.se_question, found.ci95_rerun) == (None, None, None)
    assert found.se is not None
    assert sample_variances([0.5, 1.0, 1.0], [2, 1, 1]) is None
    # A lone sample among pairs takes the mean of what the others show.
    assert sample_variances([0.5, 1.0, 1.0], [2, 2, 1]) == pytest.approx([0.5, 0.0, 0.25])


def test_one_problem_says_little_of_others() -> None:
    found = estimate_with_reruns([40], [64])
    assert (found.se, found.se_question) == (None, None)
    assert found.se_rerun == pytest.approx(math.sqrt(0.625 * 0.375 / 63), abs=1e-12)
    assert found.ci95[1] - found.ci95[0] > 0.8


@given(st.lists(st.integers(1, 8).flatmap(lambda k: st.tuples(st.integers(0, k), st.just(k))),
                min_size=1, max_size=40))  # fmt: skip
def test_every_interval_holds_its_value_and_stays_in_range(samples: list[tuple[int, int]]) -> None:
    rights, counts = (list(column) for column in zip(*samples, strict=True))
    found = estimate_with_reruns(rights, counts)
    for interval in (found.ci95, found.ci95_rerun):
        if interval is not None:
            assert 0 <= interval[0] <= found.value + 1e-12
            assert found.value - 1e-12 <= interval[1] <= 1
    mirrored = estimate_with_reruns([k - c for c, k in samples], counts)
    assert mirrored.ci95 == pytest.approx((1 - found.ci95[1], 1 - found.ci95[0]), abs=1e-9)
    if found.se_question is not None and found.se is not None:
        assert found.se_question <= found.se + 1e-12


def test_the_rerun_error_is_what_reruns_show() -> None:
    rng = np.random.default_rng(5)
    p = rng.beta(0.4, 0.6, 30)
    rights = rng.binomial(8, p, (RUNS, 30))
    seen = (rights / 8).mean(axis=1).var()
    told = [estimate_with_reruns(run, [8] * 30).se_rerun for run in rights.tolist()]
    # Unbiased: 2,000 runs give the variance of the mean within sqrt(2 / 2,000) = 3 %.
    assert np.mean([error**2 for error in told if error is not None]) == pytest.approx(
        seen, rel=0.08
    )


def covered(
    n: int, k: int, draw: Callable[[np.random.Generator, int], tuple[Floats, float]], seed: int
) -> tuple[float, float | None]:
    """The share of simulated runs whose intervals hold the truth: of new problems, of reruns."""
    rng = np.random.default_rng(seed)
    held, held_again, has_again = 0, 0, False
    for _ in range(RUNS):
        p, truth = draw(rng, n)
        found = estimate_with_reruns(rng.binomial(k, p).tolist(), [k] * n)
        held += found.ci95[0] <= truth <= found.ci95[1]
        if found.ci95_rerun is not None:
            has_again = True
            held_again += found.ci95_rerun[0] <= p.mean() <= found.ci95_rerun[1]
    return held / RUNS, held_again / RUNS if has_again else None


def beta(a: float, b: float) -> Callable[[np.random.Generator, int], tuple[Floats, float]]:
    """Problems whose chances are drawn from a beta distribution, its mean being the truth."""
    return lambda rng, n: (rng.beta(a, b, n), a / (a + b))


def coin(low: float, high: float) -> Callable[[np.random.Generator, int], tuple[Floats, float]]:
    """One chance for all problems, drawn anew for every run: a count of right answers is discrete,
    so at any one chance the coverage is off by up to some points.
    """

    def draw(rng: np.random.Generator, n: int) -> tuple[Floats, float]:
        truth = rng.uniform(low, high)
        return np.full(n, truth), truth

    return draw


@pytest.mark.parametrize(
    ("n", "k", "draw"),
    [
        pytest.param(30, 64, beta(0.4, 0.6), id="aime"),
        pytest.param(30, 64, beta(0.2, 1.8), id="aime, hard"),
        pytest.param(30, 64, beta(1.2, 0.4), id="aime, easy"),
        pytest.param(30, 4, beta(0.4, 0.6), id="aime, four samples"),
        pytest.param(500, 4, beta(2.0, 0.2), id="math500"),
        pytest.param(198, 8, beta(0.8, 0.8), id="gpqa"),
        pytest.param(500, 1, coin(0.5, 0.98), id="math500, one sample"),
        pytest.param(200, 1, coin(0.85, 0.95), id="near the end of the scale"),
        pytest.param(30, 1, coin(0.05, 0.95), id="aime, one sample"),
    ],
)
def test_95_of_100_intervals_hold_the_truth(
    n: int, k: int, draw: Callable[[np.random.Generator, int], tuple[Floats, float]]
) -> None:
    of_new, of_reruns = covered(n, k, draw, seed=1)
    assert 0.94 <= of_new <= 0.96
    assert (of_reruns is None) == (k == 1)
    if of_reruns is not None:
        assert 0.94 <= of_reruns <= 0.965

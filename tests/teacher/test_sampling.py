"""Drawing tokens: the inverse of the cumulative distribution, exactly and by frequency."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from r1kit.teacher.lean.sampling import CANDIDATES, WIDE_CANDIDATES, Drawn, Ways, draw
from torch import Tensor

ALL = Ways(greedy=True, whole=True, nucleus=True)


def draw_rows(
    logits_RV: Tensor, temperature: float, top_p: float, uniform_R: Tensor, ways: Ways | None = None
) -> Drawn:
    """Draw in every row at one temperature and top-p, in the ways that a lane would compute."""
    heat_R = torch.full_like(uniform_R, temperature)
    top_p_R = torch.full_like(uniform_R, top_p)
    return draw(logits_RV, heat_R, top_p_R, uniform_R, ways or Ways.of(heat_R, top_p_R))


def draw_at(shares: list[Fraction], top_p: float, uniforms: list[float]) -> list[int]:
    """Tokens drawn from exact shares, one per uniform number."""
    logits_V = torch.tensor([math.log(share) if share else -math.inf for share in shares])
    logits_RV = logits_V.expand(len(uniforms), -1)
    tokens: list[int] = draw_rows(logits_RV, 1.0, top_p, torch.tensor(uniforms)).tokens_R.tolist()
    return tokens


def nucleus(probs_V: Tensor, top_p: float) -> Tensor:
    """The definition: the fewest most likely tokens whose probabilities reach top-p, rescaled."""
    order = probs_V.argsort(descending=True, stable=True).tolist()
    kept, total = torch.zeros_like(probs_V), 0.0
    for token in order:
        kept[token] = probs_V[token]
        total += float(probs_V[token])
        if total >= top_p:
            break
    return kept / kept.sum()


EIGHTHS = [Fraction(1, 8), Fraction(4, 8), Fraction(0), Fraction(3, 8)]


def test_the_whole_distribution_is_inverted_in_the_order_of_the_tokens() -> None:
    # Cumulated: 1/8, 5/8, 5/8, 1. A token of no probability is never drawn.
    uniforms = [0.0, 0.12, 0.13, 0.62, 0.63, 0.999]
    assert draw_at(EIGHTHS, 1.0, uniforms) == [0, 0, 1, 1, 3, 3]


def test_the_nucleus_is_inverted_from_the_likeliest_token_down() -> None:
    # 1/2 alone reaches 0.45; 1/2 and 3/8 are needed for 0.7; all three for 0.9.
    uniforms = [0.0, 0.49, 0.51, 0.57, 0.58, 0.87, 0.88, 0.999]
    assert draw_at(EIGHTHS, 0.45, uniforms) == [1] * 8
    assert draw_at(EIGHTHS, 0.7, uniforms) == [1] * 4 + [3] * 4  # 4/7 is 0.571
    assert draw_at(EIGHTHS, 0.9, uniforms) == [1, 1, 3, 3, 3, 3, 0, 0]


def test_the_token_that_reaches_top_p_is_the_last_in_the_nucleus() -> None:
    halves = [Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)]
    logits_RV = torch.tensor([[math.log(h) for h in halves]]).expand(2, -1)
    uniform_R = torch.tensor([0.6, 0.999])
    for top_p, last in ((0.499, 0), (0.501, 1), (0.749, 1), (0.751, 2)):
        assert draw_rows(logits_RV, 1.0, top_p, uniform_R).tokens_R[1] == last


@pytest.mark.parametrize("temperature", [0.25, 0.6, 2.0])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("spread", [0.1, 3.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("vocabulary", [7, 300, 5000])
def test_drawn_shares_equal_softmax_cut_to_the_nucleus(
    temperature: float, top_p: float, spread: float, vocabulary: int
) -> None:
    """Evenly spaced uniform numbers draw each token as often as its probability says, give or take
    one: an interval of length p holds N * p of N points, but for its two ends.
    """
    rng = torch.Generator().manual_seed(vocabulary)
    logits_V = torch.randn(vocabulary, generator=rng, dtype=torch.float64) * spread
    logits_V = logits_V.float()
    num = 512 if vocabulary > 1000 else 2048
    uniform_R = (torch.arange(num) + 0.5) / num
    drawn = draw_rows(logits_V.expand(num, -1), temperature, top_p, uniform_R)
    want_V = torch.softmax(logits_V.double() / temperature, dim=-1)
    if top_p < 1:
        want_V = nucleus(want_V, top_p)
    counts_V = torch.bincount(drawn.tokens_R, minlength=vocabulary)
    # A float32 sum of the probabilities shifts the ends of an interval by 2^-24 per term, at most
    # num * vocabulary * 2^-24 < 0.16 of a point.
    assert ((counts_V - num * want_V).abs() <= 1.2).all()
    assert not drawn.broken_R.any()


def test_frequencies_over_random_uniform_numbers_pass_a_chi_square_test() -> None:
    rng = torch.Generator().manual_seed(0)
    logits_V = torch.randn(8, generator=rng)
    num = 20_000
    uniform_R = torch.rand(num, generator=rng)
    tokens_R = draw_rows(logits_V.expand(num, -1), 0.6, 1.0, uniform_R).tokens_R
    want_V = num * torch.softmax(logits_V.double() / 0.6, dim=-1)
    counts_V = torch.bincount(tokens_R, minlength=8)
    assert float(((counts_V - want_V) ** 2 / want_V).sum()) < 24.3  # 0.999 at 7 degrees of freedom


def test_a_nucleus_wider_than_the_candidates_is_drawn_from_whole() -> None:
    for vocabulary, candidates in ((300, CANDIDATES), (5000, WIDE_CANDIDATES)):
        logits_V = -torch.arange(vocabulary).float() / vocabulary  # falling, almost flat
        uniform_R = torch.tensor([0.0, 0.5, 0.999_99])
        tokens = draw_rows(logits_V.expand(3, -1), 1.0, 0.9, uniform_R).tokens_R.tolist()
        cumulated = torch.softmax(logits_V.double(), dim=-1).cumsum(-1)
        last = int((cumulated < 0.9).sum())
        half = int((cumulated < cumulated[last] / 2).sum())
        assert tokens[0] == 0
        assert abs(tokens[1] - half) <= 1
        assert last - 1 <= tokens[2] <= last
        assert half > candidates


def test_greedy_takes_the_first_of_the_largest_whatever_the_uniform_number() -> None:
    logits_RV = torch.tensor([[0.0, 2.0, 1.0, 2.0]]).expand(3, -1)
    uniform_R = torch.tensor([0.0, 0.5, 0.999])
    assert draw_rows(logits_RV, 0.0, 0.95, uniform_R).tokens_R.tolist() == [1, 1, 1]


def test_each_row_goes_its_own_way_and_draws_as_it_would_alone() -> None:
    rng = torch.Generator().manual_seed(1)
    ways = list(itertools.product((0.0, 0.6, 1.5), (0.5, 0.95, 0.999_999_99, 1.0))) * 8
    logits_RV = torch.randn(len(ways), 400, generator=rng) * 2
    uniform_R = torch.rand(len(ways), generator=rng)
    heat_R, top_p_R = torch.tensor(ways).T.contiguous()
    together = draw(logits_RV, heat_R, top_p_R, uniform_R, Ways.of(heat_R, top_p_R))
    assert torch.equal(together.tokens_R, draw(logits_RV, heat_R, top_p_R, uniform_R, ALL).tokens_R)
    for row, (temperature, top_p) in enumerate(ways):
        one = slice(row, row + 1)
        alone = draw_rows(logits_RV[one], temperature, top_p, uniform_R[one])
        assert alone.tokens_R == together.tokens_R[row]


def test_a_temperature_close_to_zero_is_greedy_and_overflows_nothing() -> None:
    logits_RV = torch.tensor([[1.0, 50.0, 49.0]])
    for temperature in (1e-4, 1e-38, 1e-44, 1e-60):
        drawn = draw_rows(logits_RV, temperature, 0.95, torch.tensor([0.999]))
        assert drawn.tokens_R.tolist() == [1]
        assert not drawn.broken_R.any()


@pytest.mark.parametrize("top_p", [0.95, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_a_row_that_is_not_numbers_is_told_and_spares_the_others(
    temperature: float, top_p: float
) -> None:
    logits_RV = torch.zeros(5, 40)
    logits_RV[:, 7] = 30.0
    logits_RV[1, 39] = float("nan")
    logits_RV[2, 3] = float("inf")
    logits_RV[3] = float("-inf")
    logits_RV[4, 0] = float("-inf")  # a token that is ruled out is no fault
    drawn = draw_rows(logits_RV, temperature, top_p, torch.full((5,), 0.5))
    assert drawn.broken_R.tolist() == [False, True, True, True, False]
    assert drawn.tokens_R[[0, 4]].tolist() == [7, 7]
    assert ((drawn.tokens_R >= 0) & (drawn.tokens_R < 40)).all()

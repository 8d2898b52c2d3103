"""Drawing the next token of every row at once.

Each row has its own temperature, top-p and uniform number, and what it draws depends on these and
its own logits alone. A row takes one of three ways: greedy (temperature 0), the whole distribution
(top-p 1), or the nucleus of Holtzman et al. (arXiv:1904.09751): the fewest most likely tokens whose
probabilities reach top-p. Several ways may be computed for all rows; each row keeps its own.

Letters: R rows, V vocabulary, K candidates.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

CANDIDATES = 16
COLDEST = 1e-6
"""Colder than this, logits divided by the temperature would overflow."""
WIDE_VOCABULARY = 4096
WIDE_CANDIDATES = 64
"""A nucleus is looked for among so many tokens before the row is sorted: sorting 272 logits takes
six times as long as finding the best 16."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """tokens_R: int64. broken_R: bool, rows whose logits are not numbers."""

    tokens_R: Tensor
    broken_R: Tensor


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways that any active row takes; the others are not computed."""

    greedy: bool
    whole: bool
    nucleus: bool

    @classmethod
    def of(cls, temperature_X: Tensor, top_p_X: Tensor) -> Self:
        """The ways of these rows, told from the very numbers that `draw` compares."""
        warm_X, whole_X = temperature_X > 0, top_p_X == 1
        return cls(
            greedy=not bool(warm_X.all()),
            whole=bool((warm_X & whole_X).any()),
            nucleus=bool((warm_X & ~whole_X).any()),
        )


def draw(
    logits_RV: Tensor, temperature_R: Tensor, top_p_R: Tensor, uniform_R: Tensor, ways: Ways
) -> Drawn:
    """Draw a token per row by inverting the cumulative distribution at the row's uniform number.

    Args:
        temperature_R: 0 means greedy.
        top_p_R: in (0, 1].
        uniform_R: in [0, 1).
    """
    greedy_R = temperature_R == 0
    heat_R1 = temperature_R.clamp(min=COLDEST).masked_fill(greedy_R, 1.0)[:, None]
    probs_RV = torch.softmax(logits_RV.float() / heat_R1, dim=-1)
    broken_R = probs_RV[:, 0].isnan()
    tokens_R = torch.zeros_like(greedy_R, dtype=torch.int64)
    if ways.whole:
        tokens_R = _invert(probs_RV.cumsum(-1), uniform_R, probs_RV.shape[1])
    if ways.nucleus:
        nucleus_R = _draw_nucleus(probs_RV, top_p_R, uniform_R, ~greedy_R & (top_p_R < 1))
        tokens_R = torch.where(top_p_R < 1, nucleus_R, tokens_R) if ways.whole else nucleus_R
    if ways.greedy:
        tokens_R = torch.where(greedy_R, logits_RV.argmax(-1), tokens_R)
    return Drawn(tokens_R, broken_R)


def _invert(cumulated_RK: Tensor, uniform_R: Tensor, num: int) -> Tensor:
    """The first index whose cumulated probability exceeds uniform x the total."""
    target_R1 = uniform_R[:, None] * cumulated_RK[:, -1:]
    return torch.searchsorted(cumulated_RK, target_R1, right=True)[:, 0].clamp_(max=num - 1)


def _draw_nucleus(
    probs_RV: Tensor, top_p_R: Tensor, uniform_R: Tensor, concerned_R: Tensor
) -> Tensor:
    """Draw from each row's nucleus; rows whose nucleus is wider than the candidates are sorted."""
    vocabulary = probs_RV.shape[1]
    limit = CANDIDATES if vocabulary <= WIDE_VOCABULARY else WIDE_CANDIDATES
    best_RK, index_RK = probs_RV.topk(min(limit, vocabulary), dim=-1)
    cumulated_RK = best_RK.cumsum(-1)
    tokens_R = _pick(best_RK, index_RK, cumulated_RK, top_p_R, uniform_R)
    wide_R = (cumulated_RK[:, -1] < top_p_R) & concerned_R
    if best_RK.shape[1] < vocabulary and bool(wide_R.any()):
        rows = wide_R.nonzero().flatten()
        sorted_XV, index_XV = probs_RV[rows].sort(dim=-1, descending=True, stable=True)
        tokens_R[rows] = _pick(
            sorted_XV, index_XV, sorted_XV.cumsum(-1), top_p_R[rows], uniform_R[rows]
        )
    return tokens_R


def _pick(
    best_RK: Tensor, index_RK: Tensor, cumulated_RK: Tensor, top_p_R: Tensor, uniform_R: Tensor
) -> Tensor:
    """Draw among sorted candidates: those in front of which less than top-p has been reached."""
    kept_R1 = ((cumulated_RK - best_RK) < top_p_R[:, None]).sum(-1, keepdim=True).clamp_(min=1)
    target_R1 = uniform_R[:, None] * cumulated_RK.gather(1, kept_R1 - 1)
    chosen_R1 = torch.searchsorted(cumulated_RK, target_R1, right=True)
    return index_RK.gather(1, torch.minimum(chosen_R1, kept_R1 - 1))[:, 0]

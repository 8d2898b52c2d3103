"""How far a result may be from its definition, and how far it is.

The limits are FlashMLA's: a number is right where its absolute or its relative error is small
enough, and every row of the output must also point the right way. Its cosine difference,
1 - 2xy / (xx + yy), is half the squared relative error; over a whole tensor short sequences,
whose outputs are large, would hide the long ones, so here each row has to meet it.

What may be rounded, in half steps of each format:
    the probabilities and the output to bf16, 2**-9 each: a cosine difference of about 1e-6;
    with FP8 queries the probabilities to e4m3, 2**-4: about 4e-4. e4m3 products are summed with 14
    bits, which moves a score by 2**-13 of the largest partial sum;
    the latents of the 656-byte cache, e4m3 times a scale, to bf16: 2**-9 of each of 576 products.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The limits of one comparison. A number passes by its absolute or by its relative error."""

    out_abs: float = 8e-4
    out_rel: float = 2.01 / 128
    cosine: float = 5e-6
    lse_abs: float = 1e-6
    lse_rel: float = 8.01 / 65536


@dataclass(frozen=True, slots=True)
class Errors:
    """How far a result is from its definition.

    Attributes:
        out_abs: the greatest absolute error of an output.
        cosine: the greatest cosine difference of a row.
        lse_abs: the greatest absolute error of a log-sum-exp.
        used: the greatest share of a tolerance that was used up; above 1, or NaN, is wrong.
        wrong: what is wrong, in words; empty where nothing is.
    """

    out_abs: float = 0.0
    cosine: float = 0.0
    lse_abs: float = 0.0
    used: float = 0.0
    wrong: str = ""


def tolerance(cache: str, query_dtype: str, score_spread: float) -> Tolerance:
    """The limits for a layout and query dtype.

    Args:
        score_spread: the standard deviation of the scores, scale included.
    """
    if query_dtype == "fp8":
        # 5 standard deviations of an output whose probabilities are off by 2**-4 / sqrt(3) each.
        return Tolerance(
            out_abs=6e-3, out_rel=1 / 8, cosine=1e-3, lse_abs=1e-6 + 2**-9 * score_spread
        )
    if cache == "fp8_ds_mla":
        return Tolerance(lse_abs=1e-6 + 2**-7 * score_spread)  # 7 deviations of 2**-9 / sqrt(3)
    return Tolerance()


def compare(
    out: Tensor, lse: Tensor, want_out: Tensor, want_lse: Tensor, limits: Tolerance
) -> Errors:
    """Compare outputs (..., 512) and log-sum-exps (...) with the definition's.

    A row that sees nothing must be exactly 0, and its log-sum-exp -inf.
    """
    if out.shape != want_out.shape or lse.shape != want_lse.shape:
        return Errors(
            wrong=f"shapes are {tuple(out.shape)}, {tuple(lse.shape)}; "
            f"should be {tuple(want_out.shape)}, {tuple(want_lse.shape)}"
        )
    if out.dtype != torch.bfloat16 or lse.dtype != torch.float32:
        return Errors(wrong=f"dtypes are {out.dtype}, {lse.dtype}; should be bfloat16, float32")
    got_RC, want_RC = out.double().flatten(0, -2), want_out.double().flatten(0, -2)
    got_R, want_R = lse.double().flatten(), want_lse.double().flatten()
    blind_R = torch.isneginf(want_R)
    seen_R = ~blind_R
    cosine_R = _cosine(got_RC, want_RC)[seen_R]
    worst = {
        "a row that sees nothing is not 0": _most(got_RC[blind_R].abs()),
        "the log-sum-exp of a row that sees nothing is not -inf": _most(
            (got_R[blind_R] != -math.inf).double()
        ),
        "an output is off": _most(_used(got_RC, want_RC, limits.out_abs, limits.out_rel)),
        "a row points elsewhere": _most(cosine_R) / limits.cosine,
        "a log-sum-exp is off": _most(
            _used(got_R[seen_R], want_R[seen_R], limits.lse_abs, limits.lse_rel)
        ),
    }
    names = list(worst)
    off_out, off_lse = (got_RC - want_RC).abs(), (got_R[seen_R] - want_R[seen_R]).abs()

    numbers = torch.stack(
        [*worst.values(), _most(off_out), _most(cosine_R), _most(off_lse)]
    ).tolist()
    shares, (out_abs, cosine, lse_abs) = numbers[: len(names)], numbers[len(names) :]
    shares[:2] = [0.0 if share == 0 else math.inf for share in shares[:2]]
    wrong = [name for name, share in zip(names, shares, strict=True) if not share <= 1]
    used = max(shares) if not any(map(math.isnan, shares)) else math.nan
    return Errors(out_abs, cosine, lse_abs, used, "; ".join(wrong))


def _used(got: Tensor, want: Tensor, most_abs: float, most_rel: float) -> Tensor:
    """The share of the tolerance that each number uses up: the smaller of its two."""
    off = (got - want).abs()
    return torch.minimum(off / most_abs, off / (want.abs() * most_rel).clamp_min(1e-300))


def _cosine(got_RC: Tensor, want_RC: Tensor) -> Tensor:
    """The cosine difference of each row; NaN where one of them holds a NaN."""
    both_R = (got_RC * want_RC).sum(-1)
    squares_R = (got_RC.square() + want_RC.square()).sum(-1)
    return 1 - 2 * both_R / squares_R


def _most(numbers: Tensor) -> Tensor:
    """The greatest number, 0 where there is none, NaN where one is NaN."""
    return numbers.max() if numbers.numel() else numbers.new_zeros(())


def cosine_difference(left: Tensor, right: Tensor) -> float:
    """1 - 2xy / (xx + yy) over all numbers: 0 for equal ones, NaN where one is not finite."""
    x, y = left.double().flatten(), right.double().flatten()
    return float(1 - 2 * (x @ y) / (x @ x + y @ y))


def same_bits(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> bool:
    """Whether two results are equal bit by bit; -inf equals -inf, and so does the same NaN."""
    return all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))
        for a, b in zip(left, right, strict=True)
    )

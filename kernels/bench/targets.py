"""The targets that the kernels were built to, as data, and whether a result file meets them.

Each is judged at every shape that it speaks of; the worst of them stands for it. Where an anchor or
a shape is missing, the target is not met but untold.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .result_file import Results, Row, aligned, shape_words

Measure = Callable[[Row, Results], float | None]
"""What a row reached, or None where its file cannot tell."""


@dataclass(frozen=True, slots=True)
class Target:
    """One promise about speed.

    Attributes:
        number: its place in the list.
        says: the promise.
        applies: whether it speaks of a row.
        measure: what the row reached.
        wanted: what it has to reach.
        unit: what stands behind the number.
        at_most: whether the number has to stay below `wanted` instead of reaching it.
    """

    number: str
    says: str
    applies: Callable[[Row], bool]
    measure: Measure
    wanted: float
    unit: str = "x"
    at_most: bool = False

    def score(self, row: Row, results: Results) -> float | None:
        """What the row reached, as a share of what is wanted: 1 and above is met."""
        reached = self.measure(row, results)
        if reached is None or reached <= 0:
            return None
        return self.wanted / reached if self.at_most else reached / self.wanted


def _decode(
    *,
    heads: int,
    cache: tuple[str, ...] = ("bf16",),
    query_dtype: str | None = None,
    tokens: Callable[[int, int], bool] = lambda batch, context: True,
    query_tokens: tuple[int, ...] | None = (1,),
    equal: bool = False,
) -> Callable[[Row], bool]:
    """A choice of decode rows: by head count, cache, query dtype, batch and context."""

    def applies(row: Row) -> bool:
        shape = row["shape"]
        return (
            row["kernel"] == "mla_decode"
            and shape["heads"] == heads
            and shape["cache"] in cache
            and (query_dtype is None or shape["query_dtype"] == query_dtype)
            and (query_tokens is None or shape["query_tokens"] in query_tokens)
            and not (equal and shape["ragged"])
            and tokens(shape["batch"], shape["context"])
        )

    return applies


def _append(tokens: Callable[[int], bool]) -> Callable[[Row], bool]:
    """A choice of append rows."""
    return lambda row: row["kernel"] == "mla_append" and tokens(row["shape"]["tokens"])


def ratio(row: Row, results: Results) -> float | None:
    """Times as fast as the best anchor."""
    value = row["ratio"]
    return None if value is None else float(value)


def tflops(row: Row, results: Results) -> float | None:
    """1e12 operations a second."""
    return float(row["tflops"])


def share_of_reading(row: Row, results: Results) -> float | None:
    """Share of the read bandwidth."""
    return float(row["tb_s"]) / results.roof.read_tb_s


def share_of_copying(row: Row, results: Results) -> float | None:
    """Share of the copy bandwidth."""
    return float(row["tb_s"]) / results.roof.copy_tb_s


def faster_than_fa3(row: Row, results: Results) -> float | None:
    """Times as fast as FlashAttention-3 on a bf16 cache."""
    fa3_us = row.get("fa3_bf16_us")
    return None if fa3_us is None else float(fa3_us) / float(row["us"])


def easier_of_two(row: Row, results: Results) -> float | None:
    """The better of: ratio over 1.5, and share of the read bandwidth over 88 %."""
    by_share = float(row["tb_s"]) / results.roof.read_tb_s / 0.88
    value = row["ratio"]
    if value is None:
        return by_share if by_share >= 1 else None
    return max(by_share, float(value) / 1.5)


def over_one_token(row: Row, results: Results) -> float | None:
    """The time of two query tokens over that of one, same shape."""
    one = results.find("mla_decode", {**row["shape"], "query_tokens": 1})
    return None if one is None else float(row["us"]) / float(one["us"])


def _at(batch: int, context: int) -> Callable[[int, int], bool]:
    return lambda b, s: (b, s) == (batch, context)


FP8 = ("fp8", "fp8_ds_mla")
K = 1024
TARGETS = (
    Target(
        "1a", "bf16, 16 heads: 0.98 of the best anchor's speed at every shape",
        _decode(heads=16, query_tokens=None), ratio, 0.98,
    ),
    Target(
        "1b", "bf16, 16 heads: 1.5 times the best anchor up to 32k tokens in all",
        _decode(heads=16, tokens=lambda b, s: b * s <= 32 * K), ratio, 1.5,
    ),
    Target(
        "1c", "bf16, 16 heads, batch 2 to 8 at 32k: 1.5 times the best anchor, or 88 % of reading",
        _decode(heads=16, tokens=lambda b, s: 2 <= b <= 8 and s == 32 * K, equal=True),
        easier_of_two, 1.0, " of the easier",
    ),
    Target(
        "1d", "bf16, 16 heads, batch 128 x 16k: 93 % of the read bandwidth",
        _decode(heads=16, tokens=_at(128, 16 * K), equal=True), share_of_reading, 0.93, "%",
    ),
    Target(
        "2a", "bf16, 128 heads: the best anchor's speed at every shape",
        _decode(heads=128, query_tokens=None), ratio, 1.0,
    ),
    Target(
        "2b", "bf16, 128 heads, batch 128 x 16k: 640 TFLOP/s",
        _decode(heads=128, tokens=_at(128, 16 * K), equal=True), tflops, 640, " TFLOP/s",
    ),
    Target(
        "3a", "FP8 cache, 16 heads: 1.25 times FlashMLA-FP8 at every shape",
        _decode(heads=16, cache=FP8, query_tokens=None), ratio, 1.25,
    ),
    Target(
        "3b", "576-byte cache, 16 heads: 1.7 times FlashAttention-3 in bf16 from 512k tokens",
        _decode(heads=16, cache=("fp8",), tokens=lambda b, s: b * s >= 512 * K),
        faster_than_fa3, 1.7,
    ),
    Target(
        "3c", "656-byte cache, 16 heads: 1.5 times FlashAttention-3 in bf16 from 512k tokens",
        _decode(heads=16, cache=("fp8_ds_mla",), tokens=lambda b, s: b * s >= 512 * K),
        faster_than_fa3, 1.5,
    ),
    Target(
        "3d", "FP8 cache, 16 heads, batch 128 x 16k: 85 % of the read bandwidth",
        _decode(heads=16, cache=FP8, tokens=_at(128, 16 * K), equal=True),
        share_of_reading, 0.85, "%",
    ),
    Target(
        "3e", "FP8 cache and queries, 128 heads: FlashMLA-FP8's speed at every shape",
        _decode(heads=128, cache=FP8, query_dtype="fp8", query_tokens=None), ratio, 1.0,
    ),
    Target(
        "3f", "FP8 cache, bf16 queries, 128 heads, batch 128 x 16k: 400 TFLOP/s",
        _decode(heads=128, cache=FP8, query_dtype="bf16", tokens=_at(128, 16 * K), equal=True),
        tflops, 400, " TFLOP/s",
    ),
    Target(
        "4", "16 heads: two query tokens cost at most 1.15 times one",
        _decode(heads=16, cache=("bf16", *FP8), query_tokens=(2,)), over_one_token, 1.15,
        at_most=True,
    ),
    Target(
        "5a", "append of 131,072 tokens: 85 % of the copy bandwidth",
        _append(lambda tokens: tokens == 131072), share_of_copying, 0.85, "%",
    ),
    Target(
        "5b", "append of 1 to 512 tokens: no slower than vLLM's",
        _append(lambda tokens: tokens <= 512), ratio, 1.0,
    ),
)  # fmt: skip


def mark(row: Row, results: Results) -> None:
    """Write into a measured row which targets name its shape, and whether it meets them all."""
    named = [target for target in TARGETS if target.applies(row)]
    if row["us"] is None or not named:
        return
    scores = [target.score(row, results) for target in named]
    row["target"] = "; ".join(f"{each.number} {each.says}" for each in named)
    row["met"] = None if None in scores else True
    if row.get("error") or any(score is not None and score < 1 for score in scores):
        row["met"] = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one target stands.

    Attributes:
        met: None where it cannot be told.
        worst: the row that comes closest to missing it, or misses it by most.
        reached: what that row reached.
        num_told: rows that could be judged.
        num_untold: rows that could not: no anchor, no partner, or not measured.
    """

    target: Target
    met: bool | None
    worst: Row | None
    reached: float | None
    num_told: int
    num_untold: int


def judge(target: Target, results: Results) -> Verdict:
    """Judge a target over all rows that it speaks of."""
    named = [row for row in results.rows if target.applies(row)]
    told: list[tuple[float, int]] = []
    for at, row in enumerate(named):
        score = None if row["us"] is None else target.score(row, results)
        if row.get("error"):  # a kernel that fails or answers wrongly meets nothing
            score = 0.0
        if score is not None:
            told.append((score, at))
    untold = len(named) - len(told)
    if not told:
        return Verdict(target, None, None, None, 0, untold)
    score, at = min(told)
    worst = named[at]
    met = False if score < 1 else (None if untold else True)
    reached = None if worst["us"] is None else target.measure(worst, results)
    return Verdict(target, met, worst, reached, len(told), untold)


def report(results: Results) -> str:
    """The table of all targets: what was wanted, what was reached and where it was worst."""
    lines = []
    for target in TARGETS:
        verdict = judge(target, results)
        met = {True: "yes", False: "NO", None: "untold"}[verdict.met]
        counted = str(verdict.num_told)
        if verdict.num_untold:
            counted += f" of {verdict.num_told + verdict.num_untold}"
        lines.append(
            [
                target.number,
                target.says,
                _quantity(target.wanted, target),
                "nothing" if verdict.reached is None else _quantity(verdict.reached, target),
                met,
                counted,
                shape_words(verdict.worst) if verdict.worst else "",
            ]
        )
    columns = ["", "target", "wanted", "reached", "met", "shapes", "worst at"]
    notes = [
        "accuracy (target 3) is measured by `r1kit kernels check --only accuracy`, not here",
        "512k tokens stand for `from batch 64 x 8k`; shapes: judged of those that the target names",
    ]
    return "\n".join([aligned(columns, lines), *notes])


def _quantity(value: float, target: Target) -> str:
    """A number with the target's unit."""
    if target.unit == "%":
        return f"{value:.1%}"
    return f"{value:.0f}{target.unit}" if value >= 100 else f"{value:.2f}{target.unit}"

"""Multi-head latent attention for decode, the portable variant: one Triton source for every GPU.

Absorbed MLA: every head's query has 576 numbers (512 against the latent, 64 against the rotary key)
and every head reads the same cache, whose latent is key and value at once. For sm_80 and up, with
at most 99 KiB of shared memory; on Hopper a faster variant stands beside it.

How the work is split. All tiles of all sequences stand in one row, and the programs cut that row
into equal chunks: where the lengths are short the chunks are, and a captured graph serves every
length, since each program finds its chunk from the lengths on the device. A program that meets a
whole sequence writes its answer; a part of one goes to slot program + sequence of a workspace (no
two parts share that sum: from one part to the next, one of the two grows and none shrinks). The
merge kernel weighs the parts in the order of the tokens. The same inputs give the same bits. With
`invariant` a sequence is cut by its own length alone, so its neighbours cannot change its bits.

How the numbers are kept. Scores and sums are float32. With a bf16 cache both products take bf16
operands. e4m3 is exact in float16, and P has 3 more bits there, so FP8 caches take float16: a bf16
query enters it divided by a power of two per row, exact down to 2**-25 of the row's largest, and P
times 2**12, which drops no weight above 2**-36 of the largest. The four scales of `fp8_ds_mla`
never touch the latent: the key side multiplies the partial scores of 128 dimensions, the value side
multiplies P, relative to the largest scale so far, which the accumulators follow as they follow the
largest score.

Source: DeepSeek-V2 (arXiv:2405.04434), section 2.1 and appendix C; splits as in Flash-Decoding
        (Dao et al., 2023); online softmax (arXiv:1805.02867).
Cost:   per sequence length * 576 cached values read once for every `rows` rows of queries, and
        2 * 1088 FLOP per row and token; a part costs 2 KiB written and read per row.
Shapes: B sequences, Q query tokens, H heads, X = Q*H rows of a sequence (row = q*H + h), M rows and
        N tokens of a tile, C = 512 latent values in 4 groups of D = 128, R = 64 rope values,
        S parts.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .mla_cache import LATENT, CacheLayout, float16_from_e4m3, has_e4m3

if TYPE_CHECKING:
    from .mla_decode import DecodeInputs

_LATENT = tl.constexpr(LATENT)
_ROPE = tl.constexpr(64)
_GROUP = tl.constexpr(128)
_SMALLEST_SCALE = tl.constexpr(2.0**-126)
_LN_2 = tl.constexpr(math.log(2.0))


@dataclass(frozen=True, slots=True)
class DecodeTile:
    """The sizes of one program: query rows, tokens, warps, and stages of the load pipeline."""

    rows: int
    tokens: int
    warps: int
    stages: int


DECODE_TILES: dict[CacheLayout, tuple[DecodeTile, ...]] = {
    CacheLayout.BF16: (DecodeTile(16, 64, 8, 2), DecodeTile(32, 32, 8, 2)),
    CacheLayout.FP8: (DecodeTile(16, 32, 8, 1), DecodeTile(32, 32, 8, 1)),
    CacheLayout.FP8_DS: (DecodeTile(16, 32, 8, 1), DecodeTile(32, 32, 8, 1)),
}
"""Per layout, by rows: the first tile that holds all rows of a sequence, else the last.

What Triton 3.6 makes of them for sm_80, sm_89 and sm_90: 54 to 92 KiB of shared memory, 174 to 255
registers, and spills in the FP8 tiles of 32 rows alone, 144 bytes at most. 64 rows would pass
99 KiB or spill, and on Hopper would turn to wgmma. FP8 tiles are fetched one ahead by hand: the
compiler's own pipeline gives up on bytes that two products want in different layouts.
"""

LEAST_TILES = 4
"""A part shorter than this many tiles costs more to merge than it saves."""

PROGRAMS_PER_SM = 1
"""How many programs share the row of tiles, per multiprocessor: registers leave room for one."""

INVARIANT_ROWS = 1024
"""Rows of partial answers that a sequence may leave in invariant mode: 2 MiB of workspace."""


def decode_triton(inputs: "DecodeInputs", out_BQHC: Tensor, lse_BQH: Tensor) -> None:
    """Attend, and write the answer into `out_BQHC` and `lse_BQH`.

    Args:
        inputs: checked inputs; see `mla_decode.DecodeInputs`.
        out_BQHC: bfloat16, contiguous. A row that sees no token becomes 0.
        lse_BQH: float32, contiguous, natural log. A row that sees no token becomes -inf.
    """
    num_sequences, num_queries, num_heads, _ = inputs.q_latent_BQHC.shape
    if not (out_BQHC.is_contiguous() and lse_BQH.is_contiguous()):
        raise ValueError(
            "out_BQHC and lse_BQH must be contiguous, "
            f"got strides {out_BQHC.stride()} and {lse_BQH.stride()}"
        )
    num_rows = num_queries * num_heads
    if num_sequences == 0 or num_rows == 0:
        return
    tile = pick_tile(inputs.layout, num_rows)
    plan = plan_parts(inputs, tile, num_multiprocessors(out_BQHC.device))
    part_SXC = out_BQHC.new_empty((plan.num_slots, num_rows, LATENT), dtype=torch.float32)
    part_lse_SX = part_SXC.new_empty((plan.num_slots, num_rows))
    cut = {
        "num_sequences": num_sequences, "parts": plan.parts, "least_tiles": LEAST_TILES,
        "INVARIANT": inputs.invariant,
        "B": max(32, triton.next_power_of_2(num_sequences)), "N": tile.tokens,
        "INTERPRET": bool(triton.knobs.runtime.interpret),
    }  # fmt: skip
    # Every e4m3 is a bfloat16, and queries are few: FP8 queries are widened beforehand.
    q_latent, q_rope = inputs.q_latent_BQHC.bfloat16(), inputs.q_rope_BQHR.bfloat16()
    cache = inputs.cache.view(torch.uint8) if inputs.layout == CacheLayout.FP8 else inputs.cache
    row_tiles = triton.cdiv(num_rows, tile.rows)
    split: Any = _split_kernel[(plan.num_programs * row_tiles,)]
    split(
        q_latent, q_rope, cache, inputs.block_table_BM, inputs.length_B,
        inputs.query_scale, inputs.cache_scale, out_BQHC, lse_BQH, part_SXC, part_lse_SX,
        inputs.scale / math.log(2.0), num_queries, num_heads, cache.shape[1],
        *q_latent.stride()[:3], *q_rope.stride()[:3], *cache.stride()[:2],
        inputs.block_table_BM.stride(0), row_tiles,
        **cut, LAYOUT=inputs.layout.value, HAS_QUERY_SCALE=inputs.query_scale is not None,
        HAS_CACHE_SCALE=inputs.cache_scale is not None,
        NATIVE=has_e4m3(cache.device), M=tile.rows,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    merge: Any = _merge_kernel[(num_sequences, num_rows)]
    merge(inputs.length_B, part_SXC, part_lse_SX, out_BQHC, lse_BQH, num_rows, **cut, S=8)


@dataclass(frozen=True, slots=True)
class PartsPlan:
    """The launch of one shape; the lengths have no say in it.

    Attributes:
        num_programs: programs per tile of rows.
        parts: among how many the tiles are shared: those of the whole batch, or in invariant mode
            those of one sequence.
        num_slots: parts that the workspace has room for.
    """

    num_programs: int
    parts: int
    num_slots: int


def plan_parts(inputs: "DecodeInputs", tile: DecodeTile, multiprocessors: int) -> PartsPlan:
    """Plan the launch from the shapes and the size of the GPU."""
    num_sequences, num_queries, num_heads, _ = inputs.q_latent_BQHC.shape
    row_tiles = triton.cdiv(num_queries * num_heads, tile.rows)
    tokens = inputs.block_table_BM.shape[1] * inputs.cache.shape[1]
    most_parts = max(1, triton.cdiv(triton.cdiv(tokens, tile.tokens), LEAST_TILES))
    if inputs.invariant:
        # Fewer parts for a short table change no cut: its chunks are the least there are.
        parts = min(max(1, INVARIANT_ROWS // (row_tiles * tile.rows)), most_parts)
        programs = num_sequences * parts
        return PartsPlan(num_programs=programs, parts=parts, num_slots=programs)
    parts = max(1, PROGRAMS_PER_SM * multiprocessors // row_tiles)
    parts = min(parts, num_sequences * most_parts)
    return PartsPlan(num_programs=parts, parts=parts, num_slots=parts + num_sequences - 1)


def pick_tile(layout: CacheLayout, num_rows: int) -> DecodeTile:
    """The first tile of the layout that holds all rows, else the largest."""
    tiles = DECODE_TILES[layout]
    return next((tile for tile in tiles if num_rows <= tile.rows), tiles[-1])


def num_multiprocessors(device: torch.device) -> int:
    """How many multiprocessors share the work; the interpreter plays a GPU of two."""
    if device.type != "cuda":
        return 2
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit
def _tiles(length_ptr, num_sequences, B: tl.constexpr, N: tl.constexpr):
    """The number of tiles of every sequence."""
    sequence_B = tl.arange(0, B)
    length_B = tl.load(length_ptr + sequence_B, mask=sequence_B < num_sequences, other=0)
    return tl.cdiv(tl.maximum(length_B, 0), N)


@triton.jit
def _tiles_of_part(num_tiles, parts, least_tiles):
    """How many tiles go to one part where `num_tiles` are shared."""
    return tl.maximum(tl.cdiv(num_tiles, parts), least_tiles)


@triton.jit
def _bound(x, INTERPRET: tl.constexpr):
    """A loop bound. The interpreter holds scalars as arrays of one, which numpy 2.4 lets no range
    take: there it is the number itself."""
    return x.handle.data.item() if INTERPRET else x


_SHAPES = ["num_sequences", "parts", "least_tiles"]
"""Numbers that change with the batch; the compiled kernel must not."""


@triton.jit(do_not_specialize=[*_SHAPES, "row_tiles", "num_queries", "num_heads", "table_stride"])
def _split_kernel(
    q_latent_ptr, q_rope_ptr, cache_ptr, table_ptr, length_ptr, query_scale_ptr, cache_scale_ptr,
    out_ptr, lse_ptr, part_ptr, part_lse_ptr,
    scale, num_queries, num_heads, block_size,
    q_latent_stride_b, q_latent_stride_q, q_latent_stride_h,
    q_rope_stride_b, q_rope_stride_q, q_rope_stride_h,
    block_stride, token_stride, table_stride, row_tiles,
    num_sequences, parts, least_tiles,
    INVARIANT: tl.constexpr, B: tl.constexpr, N: tl.constexpr, INTERPRET: tl.constexpr,
    LAYOUT: tl.constexpr, HAS_QUERY_SCALE: tl.constexpr, HAS_CACHE_SCALE: tl.constexpr,
    NATIVE: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Attend to this program's share of the tiles, one sequence after the other."""
    # The tiles of rows of one part run side by side and share its tokens in the L2.
    program = tl.program_id(0) // row_tiles
    tiles_B = _tiles(length_ptr, num_sequences, B, N)
    if INVARIANT:
        first = program // parts
        last = first
        begin, end = 0, 0
    else:
        end_B = tl.cumsum(tiles_B, axis=0)
        num_tiles = tl.sum(tiles_B, axis=0)
        chunk = _tiles_of_part(num_tiles, parts, least_tiles)
        begin = tl.minimum(program * chunk, num_tiles)
        end = tl.minimum(begin + chunk, num_tiles)
        first = tl.sum((end_B <= begin).to(tl.int32), axis=0)
        last = tl.sum((end_B < end).to(tl.int32), axis=0)
        last = tl.where(begin < end, last, first - 1)  # no tile is left: no sequence

    cache_scale = 1.0
    if HAS_CACHE_SCALE:
        cache_scale = tl.load(cache_scale_ptr)
        scale *= cache_scale
    if HAS_QUERY_SCALE:
        scale *= tl.load(query_scale_ptr)

    num_rows = num_queries * num_heads
    row_M = tl.program_id(0) % row_tiles * M + tl.arange(0, M)
    is_row_M = row_M < num_rows
    query_M = row_M // num_heads
    token_M, head_M = query_M.to(tl.int64), (row_M % num_heads).to(tl.int64)
    q_latent_M = q_latent_ptr + token_M * q_latent_stride_q + head_M * q_latent_stride_h
    q_rope_M = q_rope_ptr + token_M * q_rope_stride_q + head_M * q_rope_stride_h

    for index in range(_bound(first, INTERPRET), _bound(last + 1, INTERPRET)):
        sequence = tl.cast(index, tl.int64)
        length = tl.load(length_ptr + sequence)
        sequence_tiles = tl.cdiv(tl.maximum(length, 0), N)
        if INVARIANT:
            chunk = _tiles_of_part(sequence_tiles, parts, least_tiles)
            low = tl.minimum(program % parts * chunk, sequence_tiles)
            high = tl.minimum(low + chunk, sequence_tiles)
            slot = tl.cast(program, tl.int64)
        else:
            before = tl.sum(tl.where(tl.arange(0, B) < index, tiles_B, 0), axis=0)
            low = tl.maximum(begin - before, 0)
            high = tl.minimum(end - before, sequence_tiles)
            slot = program + sequence
        if low < high:
            out_0, out_1, out_2, out_3, lse_M = _attend(
                q_latent_M + sequence * q_latent_stride_b, q_rope_M + sequence * q_rope_stride_b,
                is_row_M, cache_ptr, table_ptr + sequence * table_stride,
                low, high, length, length - (num_queries - 1 - query_M), scale, cache_scale,
                block_size, block_stride, token_stride,
                N, LAYOUT, NATIVE, INTERPRET, M,
            )  # fmt: skip
            if high - low == sequence_tiles:
                into_M = sequence * num_rows + row_M
                _store(out_ptr, into_M, is_row_M, out_0, out_1, out_2, out_3, True, INTERPRET)
                tl.store(lse_ptr + into_M, lse_M * _LN_2, mask=is_row_M)
            else:
                into_M = slot * num_rows + row_M
                _store(part_ptr, into_M, is_row_M, out_0, out_1, out_2, out_3, False, INTERPRET)
                tl.store(part_lse_ptr + into_M, lse_M, mask=is_row_M)


@triton.jit
def _attend(
    q_latent_M, q_rope_M, is_row_M, cache_ptr, table_ptr,
    low, high, length, seen_M, scale, cache_scale,
    block_size, block_stride, token_stride,
    N: tl.constexpr, LAYOUT: tl.constexpr, NATIVE: tl.constexpr, INTERPRET: tl.constexpr,
    M: tl.constexpr,
):  # fmt: skip
    """One part: tiles low to high of a sequence. Row m sees the tokens before seen_M[m].

    Returns the four groups of the output and the log-sum-exp to base 2.
    """
    IS_DS: tl.constexpr = LAYOUT == "fp8_ds_mla"
    SHIFT: tl.constexpr = 0 if LAYOUT == "bf16" else 12
    q_0, q_1, q_2, q_3, q_rope, unit_M = _queries(q_latent_M, q_rope_M, is_row_M, LAYOUT, M)
    top_M = tl.full((M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((M,), tl.float32)
    acc_0, acc_1 = tl.zeros((M, _GROUP), tl.float32), tl.zeros((M, _GROUP), tl.float32)
    acc_2, acc_3 = tl.zeros((M, _GROUP), tl.float32), tl.zeros((M, _GROUP), tl.float32)
    top_0, top_1, top_2, top_3 = _SMALLEST_SCALE, _SMALLEST_SCALE, _SMALLEST_SCALE, _SMALLEST_SCALE
    cache_N, is_token_N = _rows(
        cache_ptr, table_ptr, low * N + tl.arange(0, N), length,
        block_size, block_stride, token_stride,
    )  # fmt: skip
    if LAYOUT != "bf16":
        next_0, next_1, next_2, next_3, next_rope = _fetch(cache_N, is_token_N, LAYOUT)
    if IS_DS:
        after_0, after_1, after_2, after_3 = _scales(cache_N, is_token_N)
    for tile in range(_bound(low, INTERPRET), _bound(high, INTERPRET)):
        token_N = tile * N + tl.arange(0, N)
        if LAYOUT == "bf16":
            cache_N, is_token_N = _rows(
                cache_ptr, table_ptr, token_N, length, block_size, block_stride, token_stride
            )
            k_0, k_1, k_2, k_3, k_rope = _fetch(cache_N, is_token_N, LAYOUT)
        else:
            k_0, k_1 = float16_from_e4m3(next_0, NATIVE), float16_from_e4m3(next_1, NATIVE)
            k_2, k_3 = float16_from_e4m3(next_2, NATIVE), float16_from_e4m3(next_3, NATIVE)
            k_rope = next_rope if IS_DS else float16_from_e4m3(next_rope, NATIVE)
            cache_N, is_token_N = _rows(
                cache_ptr, table_ptr, token_N + N, length, block_size, block_stride, token_stride
            )
            next_0, next_1, next_2, next_3, next_rope = _fetch(cache_N, is_token_N, LAYOUT)
        if IS_DS:
            scale_0, scale_1, scale_2, scale_3 = after_0, after_1, after_2, after_3
            after_0, after_1, after_2, after_3 = _scales(cache_N, is_token_N)
            score_MN = _dot(q_0, tl.trans(k_0), INTERPRET) * scale_0[None, :]
            score_MN += _dot(q_1, tl.trans(k_1), INTERPRET) * scale_1[None, :]
            score_MN += _dot(q_2, tl.trans(k_2), INTERPRET) * scale_2[None, :]
            score_MN += _dot(q_3, tl.trans(k_3), INTERPRET) * scale_3[None, :]
            score_MN = score_MN * unit_M[:, None] + _dot(q_rope, tl.trans(k_rope), INTERPRET)
        else:
            score_MN = _dot(q_0, tl.trans(k_0), INTERPRET)
            score_MN += _dot(q_1, tl.trans(k_1), INTERPRET)
            score_MN += _dot(q_2, tl.trans(k_2), INTERPRET)
            score_MN += _dot(q_3, tl.trans(k_3), INTERPRET)
            score_MN += _dot(q_rope, tl.trans(k_rope), INTERPRET)
            score_MN *= unit_M[:, None]
        score_MN = tl.where(token_N[None, :] < seen_M[:, None], score_MN * scale, float("-inf"))

        new_top_M = tl.maximum(top_M, tl.max(score_MN, axis=1))
        finite_M = tl.where(new_top_M == float("-inf"), 0.0, new_top_M)
        fade_M = tl.exp2(top_M - finite_M)
        p_MN = tl.exp2(score_MN - finite_M[:, None] + SHIFT)
        sum_M = sum_M * fade_M + tl.sum(p_MN, axis=1)
        top_M = new_top_M
        if IS_DS:
            acc_0, top_0 = _follow(acc_0, top_0, fade_M, p_MN, scale_0, k_0, INTERPRET)
            acc_1, top_1 = _follow(acc_1, top_1, fade_M, p_MN, scale_1, k_1, INTERPRET)
            acc_2, top_2 = _follow(acc_2, top_2, fade_M, p_MN, scale_2, k_2, INTERPRET)
            acc_3, top_3 = _follow(acc_3, top_3, fade_M, p_MN, scale_3, k_3, INTERPRET)
        else:
            weight_MN = _bf16(p_MN, INTERPRET) if LAYOUT == "bf16" else p_MN.to(tl.float16)
            acc_0 = acc_0 * fade_M[:, None] + _dot(weight_MN, k_0, INTERPRET)
            acc_1 = acc_1 * fade_M[:, None] + _dot(weight_MN, k_1, INTERPRET)
            acc_2 = acc_2 * fade_M[:, None] + _dot(weight_MN, k_2, INTERPRET)
            acc_3 = acc_3 * fade_M[:, None] + _dot(weight_MN, k_3, INTERPRET)

    # A row that saw nothing has a sum of 0 and an output of 0; NaN stays NaN.
    some_M = tl.where(sum_M == 0.0, 1.0, sum_M)
    lse_M = tl.where(sum_M == 0.0, float("-inf"), top_M + tl.log2(some_M) - SHIFT)
    share_M = cache_scale / some_M
    if IS_DS:
        acc_0, acc_1, acc_2, acc_3 = acc_0 * top_0, acc_1 * top_1, acc_2 * top_2, acc_3 * top_3
    acc_0, acc_1 = acc_0 * share_M[:, None], acc_1 * share_M[:, None]
    acc_2, acc_3 = acc_2 * share_M[:, None], acc_3 * share_M[:, None]
    return acc_0, acc_1, acc_2, acc_3, lse_M


@triton.jit
def _queries(q_latent_M, q_rope_M, is_row_M, LAYOUT: tl.constexpr, M: tl.constexpr):
    """A tile of query rows as operands, and the unit of each row: q = operand * unit.

    The rope part of `fp8_ds_mla` is bfloat16, as its keys are, and has the unit 1.
    """
    q_0, q_1 = _query(q_latent_M, is_row_M, 0, 128), _query(q_latent_M, is_row_M, 128, 128)
    q_2, q_3 = _query(q_latent_M, is_row_M, 256, 128), _query(q_latent_M, is_row_M, 384, 128)
    q_rope = _query(q_rope_M, is_row_M, 0, 64)
    unit_M = tl.full((M,), 1.0, tl.float32)
    if LAYOUT != "bf16":
        largest_M = tl.maximum(_largest(q_0), _largest(q_1))
        largest_M = tl.maximum(largest_M, tl.maximum(_largest(q_2), _largest(q_3)))
        if LAYOUT == "fp8":
            largest_M = tl.maximum(largest_M, _largest(q_rope))
        # The power of two that brings a row's largest to [256, 512), and its inverse.
        exponent_M = largest_M.to(tl.uint32, bitcast=True) >> 23
        exponent_M = tl.minimum(tl.maximum(exponent_M, 9), 245)
        unit_M = ((exponent_M - 8) << 23).to(tl.float32, bitcast=True)
        by_M1 = ((262 - exponent_M) << 23).to(tl.float32, bitcast=True)[:, None]
        q_0, q_1 = _float16(q_0, by_M1), _float16(q_1, by_M1)
        q_2, q_3 = _float16(q_2, by_M1), _float16(q_3, by_M1)
        if LAYOUT == "fp8":
            q_rope = _float16(q_rope, by_M1)
    return q_0, q_1, q_2, q_3, q_rope, unit_M


@triton.jit
def _follow(acc_MD, top, fade_M, p_MN, scale_N, k_ND, INTERPRET: tl.constexpr):
    """Add a tile whose tokens have scales of their own; acc is relative to the largest so far."""
    new_top = tl.maximum(top, tl.max(scale_N, axis=0))
    weight_MN = (p_MN * (scale_N / new_top)[None, :]).to(tl.float16)
    acc_MD = acc_MD * (fade_M * (top / new_top))[:, None] + _dot(weight_MN, k_ND, INTERPRET)
    return acc_MD, new_top


@triton.jit
def _query(row_M, is_row_M, at: tl.constexpr, WIDTH: tl.constexpr):
    """A slice of the queries; rows of padding are 0."""
    dim = at + tl.arange(0, WIDTH)
    return tl.load(row_M[:, None] + dim[None, :], mask=is_row_M[:, None], other=0)


@triton.jit
def _largest(x_MD):
    return tl.max(tl.abs(x_MD.to(tl.float32)), axis=1)


@triton.jit
def _float16(x_MD, by_M1):
    return (x_MD.to(tl.float32) * by_M1).to(tl.float16)


@triton.jit
def _rows(cache_ptr, table_ptr, token_N, length, block_size, block_stride, token_stride):
    """Where the tokens lie, and which of them are there: nothing past the end may be looked up."""
    is_token_N = token_N < length
    block_N = tl.load(table_ptr + token_N // block_size, mask=is_token_N, other=0)
    at_N = block_N.to(tl.int64) * block_stride
    return cache_ptr + at_N + (token_N % block_size).to(tl.int64) * token_stride, is_token_N


@triton.jit
def _fetch(cache_N, is_token_N, LAYOUT: tl.constexpr):
    """The four groups of the tokens' latents and their rope keys, as stored; 0 past the end."""
    at_ND = cache_N[:, None] + tl.arange(0, _GROUP)[None, :]
    is_token_N1 = is_token_N[:, None]
    if LAYOUT == "fp8_ds_mla":
        rope_N = (cache_N + (_LATENT + 16)).to(tl.pointer_type(tl.bfloat16))
    else:
        rope_N = cache_N + _LATENT
    return (
        tl.load(at_ND, mask=is_token_N1, other=0),
        tl.load(at_ND + 128, mask=is_token_N1, other=0),
        tl.load(at_ND + 256, mask=is_token_N1, other=0),
        tl.load(at_ND + 384, mask=is_token_N1, other=0),
        tl.load(rope_N[:, None] + tl.arange(0, _ROPE)[None, :], mask=is_token_N1, other=0),
    )


@triton.jit
def _scales(cache_N, is_token_N):
    """The scales of the four groups in `fp8_ds_mla`; 0 past the end."""
    at_N = (cache_N + _LATENT).to(tl.pointer_type(tl.float32))
    return (
        tl.load(at_N, mask=is_token_N, other=0.0),
        tl.load(at_N + 1, mask=is_token_N, other=0.0),
        tl.load(at_N + 2, mask=is_token_N, other=0.0),
        tl.load(at_N + 3, mask=is_token_N, other=0.0),
    )


@triton.jit
def _bf16(x, INTERPRET: tl.constexpr):
    """Round to bfloat16: nearest, ties to even. The interpreter's own cast would truncate."""
    if INTERPRET:
        bits = x.to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        bits = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FC00000, rounded).to(tl.uint32)
        x = bits.to(tl.float32, bitcast=True)
    return x.to(tl.bfloat16)


@triton.jit
def _dot(a, b, INTERPRET: tl.constexpr):
    """The product in float32. The interpreter would multiply the bit patterns of bfloat16."""
    return tl.dot(a.to(tl.float32), b.to(tl.float32)) if INTERPRET else tl.dot(a, b)


@triton.jit
def _store(
    ptr, into_M, is_row_M, out_0, out_1, out_2, out_3, ROUND: tl.constexpr, INTERPRET: tl.constexpr
):
    """Write the four groups of a tile of rows, rounded to bfloat16 or as they are."""
    if ROUND:
        out_0, out_1 = _bf16(out_0, INTERPRET), _bf16(out_1, INTERPRET)
        out_2, out_3 = _bf16(out_2, INTERPRET), _bf16(out_3, INTERPRET)
    at_MD = ptr + into_M[:, None] * _LATENT + tl.arange(0, _GROUP)[None, :]
    tl.store(at_MD, out_0, mask=is_row_M[:, None])
    tl.store(at_MD + 128, out_1, mask=is_row_M[:, None])
    tl.store(at_MD + 256, out_2, mask=is_row_M[:, None])
    tl.store(at_MD + 384, out_3, mask=is_row_M[:, None])


@triton.jit(do_not_specialize=[*_SHAPES, "num_rows"])
def _merge_kernel(
    length_ptr, part_ptr, part_lse_ptr, out_ptr, lse_ptr, num_rows,
    num_sequences, parts, least_tiles,
    INVARIANT: tl.constexpr, B: tl.constexpr, N: tl.constexpr, INTERPRET: tl.constexpr,
    S: tl.constexpr,
):  # fmt: skip
    """Weigh the parts of one row of one sequence. A sequence of one part is done already."""
    sequence = tl.program_id(0)
    row = tl.program_id(1)
    sequence_tiles = tl.cdiv(tl.maximum(tl.load(length_ptr + sequence), 0), N)
    if INVARIANT:
        chunk = _tiles_of_part(sequence_tiles, parts, least_tiles)
        num_parts = tl.cdiv(sequence_tiles, chunk)
        slot = sequence * parts
    else:
        tiles_B = _tiles(length_ptr, num_sequences, B, N)
        chunk = _tiles_of_part(tl.sum(tiles_B, axis=0), parts, least_tiles)
        before = tl.sum(tl.where(tl.arange(0, B) < sequence, tiles_B, 0), axis=0)
        first = before // chunk
        num_parts = tl.where(
            sequence_tiles > 0, (before + sequence_tiles - 1) // chunk - first + 1, 0
        )
        slot = first + sequence
    if num_parts != 1:
        part_S = tl.arange(0, S)
        dim_C = tl.arange(0, _LATENT)
        top = float("-inf")
        for at in range(0, _bound(num_parts, INTERPRET), S):
            at_S = (slot + at + part_S).to(tl.int64) * num_rows + row
            lse_S = tl.load(part_lse_ptr + at_S, mask=at + part_S < num_parts, other=float("-inf"))
            top = tl.maximum(top, tl.max(lse_S, axis=0))
        finite = tl.where(top == float("-inf"), 0.0, top)
        total = 0.0
        out_C = tl.zeros((_LATENT,), tl.float32)
        for at in range(0, _bound(num_parts, INTERPRET), S):
            is_part_S = at + part_S < num_parts
            at_S = (slot + at + part_S).to(tl.int64) * num_rows + row
            lse_S = tl.load(part_lse_ptr + at_S, mask=is_part_S, other=float("-inf"))
            weight_S = tl.exp2(lse_S - finite)
            at_SC = at_S[:, None] * _LATENT + dim_C[None, :]
            part_SC = tl.load(part_ptr + at_SC, mask=is_part_S[:, None], other=0.0)
            out_C += tl.sum(part_SC * weight_S[:, None], axis=0)
            total += tl.sum(weight_S, axis=0)
        some = tl.where(total == 0.0, 1.0, total)
        out_C = out_C / some
        lse = tl.where(total == 0.0, float("-inf"), (top + tl.log2(some)) * _LN_2)
        into = tl.cast(sequence, tl.int64) * num_rows + row
        tl.store(out_ptr + into * _LATENT + dim_C, _bf16(out_C, INTERPRET))
        tl.store(lse_ptr + into, lse)

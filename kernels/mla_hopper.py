"""Launch the CUDA kernels of MLA decode on Hopper (sm_90).

Two kernels share one plan of work and one merge (`cuda/common.cuh`): `mla_narrow` for up to 32
query rows a sequence (query tokens times heads), bound by reading the cache, and `mla_wide` for
more, in blocks of 64 rows, bound by the tensor cores at 128. README.md has the design.

Both are launched cooperatively, one block a multiprocessor: a block waits for the others that share
a sequence with it, so all of them have to be resident.
"""

from __future__ import annotations

import ctypes
import functools
import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .cuda_build import Kernel, Program, TensorMap, load, tensor_map
from .mla_cache import LATENT, ROPE, CacheLayout

if TYPE_CHECKING:
    from .mla_decode import DecodeInputs

NARROW_ROWS = 32
WIDE_ROWS = 64
SUMS_STRIDE = 1024
"""Floats from the sums of one partial result to the next; `SUMS_STRIDE` of common.cuh."""
MAX_CHUNKS = 32
"""Pieces of one sequence at most in invariant mode; `MAX_CHUNKS` of common.cuh."""
KIND = {CacheLayout.BF16: 0, CacheLayout.FP8: 1, CacheLayout.FP8_DS: 2}
CLUSTERS = True
MIN_UNITS = 2
"""The smallest share of work, in units of 32 tokens: below it a block costs more than it brings."""


class Params(ctypes.Structure):
    """`Params` of common.cuh, field by field."""

    _fields_ = (
        ("q_latent", ctypes.c_uint64),
        ("q_rope", ctypes.c_uint64),
        ("q_latent_stride", ctypes.c_int64 * 3),
        ("q_rope_stride", ctypes.c_int64 * 3),
        ("block_table", ctypes.c_uint64),
        ("block_table_stride", ctypes.c_int64),
        ("lengths", ctypes.c_uint64),
        ("query_scale", ctypes.c_uint64),
        ("cache_scale", ctypes.c_uint64),
        ("out", ctypes.c_uint64),
        ("lse", ctypes.c_uint64),
        ("partial_out", ctypes.c_uint64),
        ("partial_lse", ctypes.c_uint64),
        ("counters", ctypes.c_uint64),
        ("scale_log2", ctypes.c_float),
        ("batch", ctypes.c_int),
        ("query_tokens", ctypes.c_int),
        ("heads", ctypes.c_int),
        ("block_size", ctypes.c_int),
        ("parts", ctypes.c_int),
        ("min_units", ctypes.c_int),
        ("invariant", ctypes.c_int),
    )


@dataclass(frozen=True, slots=True)
class Geometry:
    """How one call is laid over the GPU; a function of shapes alone, never of lengths."""

    rows: int
    """Query rows of one block."""
    row_blocks: int
    parts: int
    slots: int
    """Partial results of one row block that may exist."""


def geometry(inputs: DecodeInputs, num_sms: int) -> Geometry:
    """Blocks of rows, shares of work and room for partial results."""
    batch, query_tokens, heads = inputs.q_latent_BQHC.shape[:3]
    total = query_tokens * heads
    rows = WIDE_ROWS if total > NARROW_ROWS else 32 if total > 16 else 16
    row_blocks = math.ceil(total / rows)
    parts = max(num_sms // row_blocks, 1)
    return Geometry(rows, row_blocks, parts, batch * MAX_CHUNKS if inputs.invariant else 2 * parts)


def unsupported_on_hopper(device: torch.device) -> str | None:
    """Why the kernels cannot run on `device`, or None."""
    if device.type != "cuda":
        return f"the Hopper kernels need a GPU, and the cache is on {device}"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) != (9, 0):
        return f"the Hopper kernels need compute capability 9.0, this GPU has {major}.{minor}"
    return None


def decode_hopper(inputs: DecodeInputs, out_BQHC: Tensor, lse_BQH: Tensor) -> None:
    """Fill `out_BQHC` (bfloat16) and `lse_BQH` (float32), both contiguous.

    Raises:
        NoCompiler, CompileError: the kernel's first use here found no compiler, or a broken one.
        RuntimeError: what the driver refuses.
    """
    device = inputs.cache.device
    with torch.cuda.device(device):
        plan = geometry(inputs, _num_sms(device.index))
        cluster = 2 if plan.row_blocks % 2 == 0 and CLUSTERS else 1
        kernel = kernel_for(
            device.index,
            inputs.layout,
            inputs.q_latent_BQHC.dtype == torch.float8_e4m3fn,
            plan.rows,
            _box_tokens(inputs.cache.shape[1]),
            cluster,
        )
        partial_out = torch.empty(
            plan.row_blocks * plan.slots, plan.rows, LATENT, dtype=torch.bfloat16, device=device
        )
        partial_lse = partial_out.new_empty(
            plan.row_blocks * plan.slots, SUMS_STRIDE, dtype=torch.float32
        )
        stream = torch.cuda.current_stream(device).cuda_stream
        counters = _counters(device.index, stream, 2 * plan.row_blocks * lse_BQH.shape[0])
        params = _params(inputs, plan, out_BQHC, lse_BQH, partial_out, partial_lse, counters)
        maps = _tensor_maps(inputs, plan.rows)
        kernel.launch(
            (plan.row_blocks, plan.parts),
            [params, *maps],
            stream,
            cooperative=True,
            cluster=cluster,
        )


@functools.cache
def _num_sms(device: int) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def program_for(
    layout: CacheLayout, fp8_query: bool, rows: int, box_tokens: int, cluster: int
) -> Program:
    """The program that serves a cache layout, a query dtype and a number of rows."""
    defines = (("KIND", KIND[layout]), ("QFP8", int(fp8_query)))
    if rows <= NARROW_ROWS:
        return Program(
            ("common.cuh", "mla_narrow.cu"), "mla_narrow", (*defines, ("TILES", rows // 16))
        )
    return Program(
        ("common.cuh", "mla_wide.cu"), "mla_wide",
        (*defines, ("CLUSTER", cluster), ("BOX_TOKENS", box_tokens), ("UNIT_TOKENS", 64)),
    )  # fmt: skip


@functools.cache
def kernel_for(
    device: int, layout: CacheLayout, fp8_query: bool, rows: int, box_tokens: int, cluster: int
) -> Kernel:
    """The loaded kernel; compiled at first use."""
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "mla_decode was first called while a CUDA graph was being captured, and a kernel "
            "cannot be loaded then; call it once with the same shapes before the capture"
        )
    kernel, _ = load(program_for(layout, fp8_query, rows, box_tokens, cluster))
    return kernel


def _params(
    inputs: DecodeInputs, plan: Geometry, out_BQHC: Tensor, lse_BQH: Tensor,
    partial_out: Tensor, partial_lse: Tensor, counters: Tensor,
) -> Params:  # fmt: skip
    batch, query_tokens, heads = inputs.q_latent_BQHC.shape[:3]
    return Params(
        inputs.q_latent_BQHC.data_ptr(),
        inputs.q_rope_BQHR.data_ptr(),
        (ctypes.c_int64 * 3)(*inputs.q_latent_BQHC.stride()[:3]),
        (ctypes.c_int64 * 3)(*inputs.q_rope_BQHR.stride()[:3]),
        inputs.block_table_BM.data_ptr(),
        inputs.block_table_BM.stride(0),
        inputs.length_B.data_ptr(),
        0 if inputs.query_scale is None else inputs.query_scale.data_ptr(),
        0 if inputs.cache_scale is None else inputs.cache_scale.data_ptr(),
        out_BQHC.data_ptr(),
        lse_BQH.data_ptr(),
        partial_out.data_ptr(),
        partial_lse.data_ptr(),
        counters.data_ptr(),
        inputs.scale * math.log2(math.e),
        batch,
        query_tokens,
        heads,
        inputs.cache.shape[1],
        plan.parts,
        MIN_UNITS,
        int(inputs.invariant),
    )


# ---- how the cache lies -------------------------------------------------------------------------


def _box_tokens(block_size: int) -> int:
    """Tokens of one copy: the largest of 64, 32 and 16 that divides the block size."""
    return math.gcd(block_size, 64)


def _tensor_maps(inputs: DecodeInputs, rows: int) -> list[TensorMap]:
    cache = inputs.cache
    size = cache.element_size()
    strides = (cache.stride(0) * size, cache.stride(1) * size)
    box_tokens = 16 if rows <= NARROW_ROWS else _box_tokens(cache.shape[1])
    return _maps(
        cache.data_ptr(), cache.shape[0], cache.shape[1], strides, inputs.layout, box_tokens,
        whole=rows <= NARROW_ROWS,
    )  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _maps(
    address: int,
    num_blocks: int,
    block_size: int,
    strides: tuple[int, int],
    layout: CacheLayout,
    box_tokens: int,
    *,
    whole: bool,
) -> list[TensorMap]:
    """The maps of latent (all of the token where it is bf16), rope and scales.

    A box takes all 128-byte groups of its tokens, or one of them unless `whole`.
    """

    def part(offset: int, inner: int, groups: int, swizzle: int) -> TensorMap:
        content = tensor_map(
            address + offset,
            (inner, block_size, groups, num_blocks),
            (strides[1], max(inner, 16), strides[0]),
            (inner, box_tokens, groups if whole else 1, 1),
            swizzle,
        )
        return TensorMap((ctypes.c_ubyte * 128)(*content))

    if layout is CacheLayout.BF16:
        token = part(0, 128, (LATENT + ROPE) // 64, 128)
        return [token, token, token]
    latent = part(0, 128, LATENT // 128, 128)
    if layout is CacheLayout.FP8:
        rope = part(LATENT, ROPE, 1, 64)
        return [latent, rope, rope]
    return [latent, part(LATENT + 16, 2 * ROPE, 1, 128), part(LATENT, 16, 1, 0)]


# ---- the counters -------------------------------------------------------------------------------
#
# A merge counts arrivals in memory that starts at zero and comes back to it by itself. Calls on one
# stream follow each other and share their counters. A captured call gets counters of its own, for a
# graph may be replayed on any stream beside any other; they are cut from a pool that was cleared
# beforehand, since clearing inside the graph would cost a launch in every replay.

POOL_WORDS = 1 << 22
_pools: dict[int, tuple[Tensor, int]] = {}
_spent: list[Tensor] = []
"""Pools that are used up, kept because captured graphs hold addresses in them."""
_of_stream: dict[tuple[int, int], Tensor] = {}


def _counters(device: int, stream: int, words: int) -> Tensor:
    if torch.cuda.is_current_stream_capturing():
        return _captured_counters(device, words)
    if device not in _pools or _pools[device][1] < POOL_WORDS // 2:
        if device in _pools:
            _spent.append(_pools[device][0])
        _pools[device] = (torch.zeros(POOL_WORDS, dtype=torch.int32, device=device), POOL_WORDS)
        torch.cuda.synchronize(device)  # any stream may use it next
    kept = _of_stream.get((device, stream))
    if kept is None or kept.numel() < words:
        room = max(words, 4096)
        kept = _of_stream[device, stream] = torch.zeros(room, dtype=torch.int32, device=device)
    return kept


def _captured_counters(device: int, words: int) -> Tensor:
    pool, left = _pools.get(device, (None, 0))
    if pool is None or left < words:
        warnings.warn(
            "the pool of counters for captured calls is empty: this call clears its own in every "
            "replay, which costs about 2 us; a call outside of a capture refills the pool",
            stacklevel=2,
        )
        return torch.zeros(words, dtype=torch.int32, device=device)
    start = POOL_WORDS - left
    _pools[device] = (pool, left - words)
    return pool[start : start + words]

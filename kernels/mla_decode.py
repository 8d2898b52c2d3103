"""Absorbed multi-head latent attention for decode, over a paged latent cache.

With the up-projections of keys and values absorbed into the query and the output, every head
attends to the same 576 cached values of a token: 512 of the latent and 64 of the rotary key. The
latent is key and value at once:

    score[h, s] = scale * (q_latent[h] . latent[s] + q_rope[h] . rope[s])
    out[h]      = sum over s of softmax(score[h])[s] * latent[s]

Source: DeepSeek-V2 (arXiv:2405.04434), section 2.1.2 and appendix C; split softmax: FlashDecoding.
Cost:   each cached token is read once for all heads: 1152, 576 or 656 bytes and 2*H*Q*(576 + 512)
        FLOPs a token, so 16 heads are bound by memory and 128 heads by the tensor cores of an H200.
Shapes: B sequences, Q query tokens each (1 to 4), H heads, C = 512, R = 64, M blocks of a table.

Variants: `hopper` (CUDA C++, compiled at first use), `triton` (any GPU from Ampere on; on a CPU in
Triton's interpreter), `reference` (plain PyTorch). `unsupported_reason` says why one cannot run.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .mla_cache import LATENT, ROPE, WIDTH, CacheLayout, layout_of, read_cache

Variant = Literal["hopper", "triton", "reference"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
Query = Tensor | tuple[Tensor, Tensor]
MAX_HEADS = 128
MAX_QUERY_TOKENS = 4
MAX_LENGTH = 163_840
QUERY_DTYPES = (torch.bfloat16, torch.float8_e4m3fn)


@dataclass(frozen=True, slots=True)
class DecodeInputs:
    """What a decode step attends with and to, checked once when it is made.

    Attributes:
        q_latent_BQHC: (B, Q, H, 512) bfloat16 or float8_e4m3fn; the last dimension is contiguous.
        q_rope_BQHR: (B, Q, H, 64), the same dtype.
        cache: see `CacheLayout`; the last dimension is contiguous, the others lie 16-byte aligned.
        layout: of the cache.
        block_table_BM: int32 (B, M); what stands past a sequence's end is never used.
        length_B: int32 (B,): tokens in the cache, the query tokens included. Query token j sees
            `length - (Q - 1 - j)` of them.
        scale: of the softmax.
        query_scale: float32, one element: what an FP8 query is multiplied by.
        cache_scale: float32, one element: what a cache of layout `fp8` is multiplied by.
        invariant: give a sequence the same bits whatever its neighbours.

    Raises:
        ValueError, TypeError: naming the argument, what it is and what would do.
    """

    q_latent_BQHC: Tensor
    q_rope_BQHR: Tensor
    cache: Tensor
    layout: CacheLayout
    block_table_BM: Tensor
    length_B: Tensor
    scale: float
    query_scale: Tensor | None = None
    cache_scale: Tensor | None = None
    invariant: bool = False

    def __post_init__(self) -> None:
        self._check_query()
        self._check_cache()
        self._check_tables()
        self._check_scales()

    def _check_query(self) -> None:
        latent, rope = self.q_latent_BQHC, self.q_rope_BQHR
        if latent.ndim != 4 or latent.shape[-1] != LATENT:
            raise ValueError(f"query: the latent part must be (B, Q, H, 512), got {_shape(latent)}")
        if rope.shape != (*latent.shape[:3], ROPE):
            raise ValueError(
                f"query: the rope part must be {(*latent.shape[:3], ROPE)}, got {_shape(rope)}"
            )
        _, num_tokens, num_heads, _ = latent.shape
        if not 1 <= num_tokens <= MAX_QUERY_TOKENS:
            raise ValueError(f"query: 1 to {MAX_QUERY_TOKENS} query tokens, got {num_tokens}")
        if not 1 <= num_heads <= MAX_HEADS:
            raise ValueError(f"query: 1 to {MAX_HEADS} heads, got {num_heads}")
        if latent.dtype not in QUERY_DTYPES or rope.dtype != latent.dtype:
            raise TypeError(
                "query: both parts must be bfloat16 or both float8_e4m3fn, "
                f"got {latent.dtype} and {rope.dtype}"
            )
        if latent.dtype == torch.float8_e4m3fn and self.layout is CacheLayout.BF16:
            raise TypeError("query: float8_e4m3fn goes with an FP8 cache, and this cache is bf16")
        for name, part in (("latent", latent), ("rope", rope)):
            if part.stride(-1) != 1:
                raise ValueError(
                    f"query: the last dimension of the {name} part must be contiguous, "
                    f"got strides {part.stride()}"
                )
            size = part.element_size()
            if any(stride * size % 16 for stride in part.stride()[:3]) or _off_16(part):
                raise ValueError(
                    f"query: rows of the {name} part must start at multiples of 16 bytes, got "
                    f"strides {part.stride()} of {size} bytes each"
                )

    def _check_cache(self) -> None:
        cache, block_size = self.cache, self.cache.shape[1]
        if block_size % 16 or block_size == 0:
            raise ValueError(f"cache: the block size must be a multiple of 16, got {block_size}")
        if cache.stride(-1) != 1:
            raise ValueError(
                f"cache: the last dimension must be contiguous, got strides {cache.stride()}"
            )
        size = cache.element_size()
        if any(stride * size % 16 for stride in cache.stride()[:2]) or _off_16(cache):
            raise ValueError(
                "cache: tokens and blocks must start at multiples of 16 bytes, got strides "
                f"{cache.stride()} of {size} bytes each"
            )

    def _check_tables(self) -> None:
        table, length, batch = self.block_table_BM, self.length_B, self.q_latent_BQHC.shape[0]
        if table.ndim != 2 or table.shape[0] != batch:
            raise ValueError(f"block_table: must be ({batch}, M), got {_shape(table)}")
        if length.shape != (batch,):
            raise ValueError(f"lengths: must be ({batch},), got {_shape(length)}")
        for name, tensor in (("block_table", table), ("lengths", length)):
            if tensor.dtype != torch.int32:
                raise TypeError(f"{name}: must be int32, got {tensor.dtype}")
            if tensor.numel() and tensor.stride(-1) != 1:
                raise ValueError(
                    f"{name}: the last dimension must be contiguous, got {tensor.stride()}"
                )

    def _check_scales(self) -> None:
        for name, scale in (("query_scale", self.query_scale), ("cache_scale", self.cache_scale)):
            if scale is not None and (scale.dtype != torch.float32 or scale.numel() != 1):
                raise TypeError(f"{name}: must be one float32, got {scale.dtype} {_shape(scale)}")
        if self.query_scale is not None and self.q_latent_BQHC.dtype != torch.float8_e4m3fn:
            raise TypeError("query_scale: only FP8 queries have one, and the query is bfloat16")
        if self.cache_scale is not None and self.layout is not CacheLayout.FP8:
            raise TypeError(f"cache_scale: only layout fp8 has one, and the cache is {self.layout}")
        everything = {
            "query": self.q_latent_BQHC, "query (rope part)": self.q_rope_BQHR,
            "block_table": self.block_table_BM, "lengths": self.length_B,
            "query_scale": self.query_scale, "cache_scale": self.cache_scale,
        }  # fmt: skip
        for name, tensor in everything.items():
            if tensor is not None and tensor.device != self.cache.device:
                raise ValueError(
                    f"{name}: must be where the cache is, {self.cache.device}, got {tensor.device}"
                )


def mla_decode(
    query: Query,
    cache: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    query_scale: Tensor | None = None,
    cache_scale: Tensor | None = None,
    invariant: bool = False,
    check_indices: bool = False,
    variant: Variant | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend to a paged latent cache; `mla_decode_ref` states the same thing in plain PyTorch.

    No length is read on the host and the launch depends on shapes alone, so a captured CUDA graph
    serves every length. The same inputs give the same bits.

    Args:
        query: (B, Q, H, 576), or the pair (B, Q, H, 512) and (B, Q, H, 64); without Q: one query
            token each. bfloat16, or float8_e4m3fn for an FP8 cache.
        cache: (num_blocks, block_size, 576) bfloat16, float8_e4m3fn or uint8, or (num_blocks,
            block_size, 656) uint8: see `CacheLayout`.
        block_table: int32 (B, M): block m of a sequence holds its tokens m*block_size and up.
        lengths: int32 (B,): tokens in the cache, the query tokens included; 0 to 163,840, and no
            more than the table has room for. The kernels do not look. With a longer one they take
            what stands behind the table's row for blocks, and with a block that the cache does not
            have they read beside it: the answer is garbage, or the GPU faults. `check_indices`
            finds both, and so does the variant `reference`, always.
        scale: of the softmax, such as 192**-0.5.
        query_scale: float32 tensor of one element, for FP8 queries; None: 1.
        cache_scale: float32 tensor of one element, for layout `fp8`; None: 1.
        invariant: cut each sequence by its own length alone, so that its bits do not depend on its
            neighbours. Costs speed where a batch is small.
        check_indices: look at lengths and block table first, on the host: slow, for debugging.
        variant: force `hopper`, `triton` or `reference`; None picks the first that can run.

    Returns:
        out: (B, Q, H, 512) bfloat16, or (B, H, 512).
        lse: (B, Q, H) float32, or (B, H): natural logarithm of the softmax's denominator. A row
            that sees no token: out 0, lse -inf.

    Raises:
        ValueError, TypeError: a wrong argument, by name.
        NotImplementedError: the variant that was asked for cannot run this.
    """
    q_latent, q_rope = split_query(query)
    inputs = DecodeInputs(
        q_latent, q_rope, cache, layout_of(cache), block_table, lengths, float(scale),
        query_scale, cache_scale, invariant,
    )  # fmt: skip
    if check_indices:
        check_lengths_and_table(cache, block_table, lengths)
    chosen = choose_variant(inputs, variant)
    out_BQHC, lse_BQH = torch.ops.r1kit.mla_decode(
        q_latent, q_rope, cache, block_table, lengths, float(scale), query_scale, cache_scale,
        invariant, chosen,
    )  # fmt: skip
    if (query if isinstance(query, Tensor) else query[0]).ndim == 3:
        return out_BQHC[:, 0], lse_BQH[:, 0]
    return out_BQHC, lse_BQH


def split_query(query: Query) -> tuple[Tensor, Tensor]:
    """Latent and rope part with a dimension for query tokens, as views."""
    if isinstance(query, Tensor):
        if query.ndim not in (3, 4) or query.shape[-1] != WIDTH:
            raise ValueError(f"query: must be (B, Q, H, 576) or (B, H, 576), got {_shape(query)}")
        latent, rope = query[..., :LATENT], query[..., LATENT:]
    else:
        latent, rope = query
    if latent.ndim == 3 and rope.ndim == 3:
        return latent[:, None], rope[:, None]
    return latent, rope


def unsupported_reason(inputs: DecodeInputs, variant: Variant) -> str | None:
    """Why `variant` cannot run `inputs` here, in a sentence; None if it can."""
    if variant == "hopper":
        from .mla_hopper import unsupported_on_hopper

        return unsupported_on_hopper(inputs.cache.device)
    if variant == "triton":
        device = inputs.cache.device
        if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            return "on a CPU Triton needs its interpreter: TRITON_INTERPRET=1 before it is imported"
        if device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(device)
            if (major, minor) < (8, 0):
                return (
                    "the Triton kernel needs compute capability 8.0 or more, "
                    f"this GPU has {major}.{minor}"
                )
        elif device.type not in ("cpu", "meta"):
            return f"the Triton kernel needs an NVIDIA GPU or a CPU, and the cache is on {device}"
    return None


def choose_variant(inputs: DecodeInputs, variant: Variant | None) -> Variant:
    """The variant asked for, or the fastest that can run; warns where only the reference can."""
    if variant is not None:
        if variant not in VARIANTS:
            raise ValueError(f"variant: one of {', '.join(VARIANTS)}, got {variant!r}")
        if reason := unsupported_reason(inputs, variant):
            raise NotImplementedError(f"variant {variant}: {reason}")
        return variant
    reasons: list[str] = []
    for name in VARIANTS:
        reason = unsupported_reason(inputs, name)
        if reason is None:
            break
        reasons.append(reason)
    if name == "reference" and not torch.compiler.is_compiling():  # which knows no warnings
        warnings.warn(
            f"mla_decode runs as plain PyTorch, sequence by sequence: {'; '.join(reasons)}",
            stacklevel=3,
        )
    return name


def check_lengths_and_table(cache: Tensor, block_table_BM: Tensor, length_B: Tensor) -> None:
    """Every length within its table and every used block within the cache; reads the device.

    Raises:
        ValueError: the first sequence that is wrong, and how.
    """
    num_blocks, block_size = cache.shape[:2]
    room = min(block_table_BM.shape[1] * block_size, MAX_LENGTH)
    table = block_table_BM.cpu()
    for at, length in enumerate(length_B.tolist()):
        if not 0 <= length <= room:
            raise ValueError(f"lengths[{at}]: must be 0 to {room} with this table, got {length}")
        used = table[at, : -(-length // block_size)]
        wrong = ((used < 0) | (used >= num_blocks)).nonzero()
        if wrong.numel():
            where = int(wrong[0])
            raise ValueError(
                f"block_table[{at}, {where}]: the cache has blocks 0 to {num_blocks - 1}, "
                f"got {int(used[where])}"
            )


def mla_decode_ref(
    query: Query,
    cache: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    *,
    scale: float,
    query_scale: Tensor | None = None,
    cache_scale: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """The definition: slow, obvious, any device; queries in any float dtype.

    Returns:
        out and lse in `dtype`, shaped as `mla_decode` shapes them.

    Raises:
        ValueError: a length beyond the table, or a block that the cache does not have.
    """
    check_lengths_and_table(cache, block_table, lengths)
    q_latent, q_rope = split_query(query)
    q_BQHW = torch.cat([q_latent.to(dtype), q_rope.to(dtype)], dim=-1)
    if query_scale is not None:
        q_BQHW = q_BQHW * query_scale.to(dtype)
    batch, num_tokens, num_heads, _ = q_BQHW.shape
    out_BQHC = q_BQHW.new_zeros(batch, num_tokens, num_heads, LATENT)
    lse_BQH = q_BQHW.new_full((batch, num_tokens, num_heads), float("-inf"))
    block_size, layout = cache.shape[1], layout_of(cache)
    for at, length in enumerate(lengths.tolist()):
        if length == 0:
            continue
        used = block_table[at, : -(-length // block_size)].long()
        kv_SW = read_cache(cache[used], layout, cache_scale).flatten(0, 1)[:length].to(dtype)
        for token in range(num_tokens):
            seen = length - (num_tokens - 1 - token)
            if seen <= 0:
                continue
            score_HS = scale * (q_BQHW[at, token] @ kv_SW[:seen].T)
            lse_BQH[at, token] = score_HS.logsumexp(dim=-1)
            out_BQHC[at, token] = score_HS.softmax(dim=-1) @ kv_SW[:seen, :LATENT]
    if (query if isinstance(query, Tensor) else query[0]).ndim == 3:
        return out_BQHC[:, 0], lse_BQH[:, 0]
    return out_BQHC, lse_BQH


def _off_16(tensor: Tensor) -> bool:
    """Whether a tensor starts off a multiple of 16 bytes. A tracer's tensors have no addresses to
    ask for; the operator asks again."""
    if torch.compiler.is_compiling() or isinstance(tensor, FakeTensor):
        return False
    return tensor.data_ptr() % 16 != 0


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


# ---- the operator -------------------------------------------------------------------------------


@torch.library.custom_op("r1kit::mla_decode", mutates_args=())
def _operator(
    q_latent: Tensor,
    q_rope: Tensor,
    cache: Tensor,
    block_table: Tensor,
    lengths: Tensor,
    scale: float,
    query_scale: Tensor | None,
    cache_scale: Tensor | None,
    invariant: bool,
    variant: str,
) -> tuple[Tensor, Tensor]:
    inputs = DecodeInputs(
        q_latent, q_rope, cache, layout_of(cache), block_table, lengths, scale,
        query_scale, cache_scale, invariant,
    )  # fmt: skip
    out_BQHC, lse_BQH = _empty(q_latent)
    if lengths.shape[0] == 0:
        return out_BQHC, lse_BQH
    if variant == "hopper":
        from .mla_hopper import decode_hopper

        decode_hopper(inputs, out_BQHC, lse_BQH)
    elif variant == "triton":
        from .mla_triton import decode_triton

        decode_triton(inputs, out_BQHC, lse_BQH)
    else:
        out, lse = mla_decode_ref(
            (q_latent, q_rope), cache, block_table, lengths,
            scale=scale, query_scale=query_scale, cache_scale=cache_scale,
        )  # fmt: skip
        out_BQHC.copy_(out)
        lse_BQH.copy_(lse)
    return out_BQHC, lse_BQH


@_operator.register_fake
def _(q_latent: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return _empty(q_latent)


def _empty(q_latent: Tensor) -> tuple[Tensor, Tensor]:
    shape = q_latent.shape[:3]
    out_BQHC = torch.empty(*shape, LATENT, dtype=torch.bfloat16, device=q_latent.device)
    return out_BQHC, torch.empty(*shape, dtype=torch.float32, device=q_latent.device)

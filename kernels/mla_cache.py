"""The paged latent cache of multi-head latent attention: what its bytes are, how tokens enter it.

A token's latent (512 values) and rotary key (64) are all that MLA keeps of it. A cache is one
tensor (num_blocks, block_size, ...); slot s is row s % block_size of block s // block_size. Three
layouts, byte for byte those of vLLM's `concat_and_cache_mla`:

    layout       bytes a token   0 ... 511          512 ... 527           528 ... 655
    bf16         1152            (2 bytes a value: latent 0 ... 1023, rope 1024 ... 1151)
    fp8          576             latent, e4m3       rope, e4m3 (512 ... 575)
    fp8_ds_mla   656             latent, e4m3       4 scales, float32     rope, bfloat16

Every number is little-endian. In `fp8` one float32 scale holds for the whole cache and stands
beside it: value = byte * scale. In `fp8_ds_mla` the scale at byte 512 + 4*g holds for the latent
values 128*g ... 128*g + 127 of its own token: it is max(amax / 448, 2**-126), so none saturates.
Both store e4m3(value / scale), the quotient rounded to float32, then to the nearest e4m3 with ties
to even; what is beyond +-448 becomes +-448, infinities too, and NaN becomes 0x7F.

Source: DeepSeek-V2 (arXiv:2405.04434), section 2.1; e4m3: FP8 Formats for Deep Learning
        (arXiv:2209.05433), section 3.
Cost:   per token 1152 bytes read and 1152, 576 or 656 written; one launch. In the FP8 layouts about
        10 instructions a value, half the time that the bytes take on an H200.
Shapes: T tokens, C = 512 latent and R = 64 rope values, G = 4 scale groups of D = 128 values.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LATENT = 512
ROPE = 64
WIDTH = LATENT + ROPE
GROUP = 128
"""Latent values that share one scale in `fp8_ds_mla`."""
NUM_GROUPS = LATENT // GROUP
E4M3_MAX = 448.0
SMALLEST_SCALE = 2.0**-126
"""The smallest normal float32: the scale of a group of zeros, as in vLLM."""

_LATENT = tl.constexpr(LATENT)
_ROPE = tl.constexpr(ROPE)
_GROUP = tl.constexpr(GROUP)
_NUM_GROUPS = tl.constexpr(NUM_GROUPS)
_SCALES_AT = tl.constexpr(LATENT)
_ROPE_AT = tl.constexpr(LATENT + 4 * NUM_GROUPS)
_E4M3_MAX = tl.constexpr(E4M3_MAX)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)


class CacheLayout(StrEnum):
    """How a token lies in the cache. The words are vLLM's `kv_cache_dtype`."""

    BF16 = "bf16"
    FP8 = "fp8"
    FP8_DS = "fp8_ds_mla"

    @property
    def row_bytes(self) -> int:
        """Bytes of one token."""
        return {"bf16": 2 * WIDTH, "fp8": WIDTH, "fp8_ds_mla": LATENT + 4 * NUM_GROUPS + 2 * ROPE}[
            self.value
        ]


@dataclass(frozen=True, slots=True)
class AppendTile:
    """How many tokens one program moves, and with how many warps."""

    tokens: int
    warps: int


FEW_TOKENS = 2048
"""Up to here every token gets a program of its own: the latency of one token is all there is."""

APPEND_TILES: dict[CacheLayout, tuple[AppendTile, AppendTile]] = {
    CacheLayout.BF16: (AppendTile(1, 2), AppendTile(8, 4)),
    CacheLayout.FP8: (AppendTile(1, 2), AppendTile(8, 4)),
    CacheLayout.FP8_DS: (AppendTile(1, 1), AppendTile(8, 4)),
}
"""Per layout: up to FEW_TOKENS, and beyond.

One token: 64 threads hold its latent, 16 bytes each; where its scales are shared, one warp spares
the barrier. Many: four 16-byte loads in flight per thread at 32 to 61 registers (sm_90) leave room
for 1,024 threads and 64 KiB in flight per multiprocessor, twice what hides the memory's latency.
"""


def layout_of(cache: Tensor) -> CacheLayout:
    """Tell a cache's layout from its dtype and last dimension."""
    if cache.ndim == 3:
        match (cache.dtype, cache.shape[-1]):
            case (torch.bfloat16, 576):
                return CacheLayout.BF16
            case (torch.float8_e4m3fn | torch.uint8, 576):
                return CacheLayout.FP8
            case (torch.uint8, 656):
                return CacheLayout.FP8_DS
    raise ValueError(
        f"cache: {cache.dtype} {tuple(cache.shape)} is no known layout; known are (num_blocks, "
        "block_size, 576) in bfloat16, float8_e4m3fn or uint8, and (..., 656) in uint8"
    )


@triton.jit
def e4m3_from_float(x, NATIVE: tl.constexpr):
    """Round float32 to e4m3 bytes: nearest, ties to even, saturating; NaN becomes 0x7F.

    NATIVE uses the conversion of sm_89 and up; otherwise integers do it, with the same bytes.
    """
    if NATIVE:
        byte = x.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        bits = x.to(tl.uint32, bitcast=True)
        size = bits & 0x7FFFFFFF
        # 20 mantissa bits go; the carry of the rounding may raise the exponent, as it should.
        normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - ((127 - 7) << 3)
        # Below 2**-6 the steps are 2**-9, which is what float32 keeps at 2**14.
        steps = (size.to(tl.float32, bitcast=True) + 16384.0).to(tl.uint32, bitcast=True)
        byte = tl.where(size < 0x3C800000, steps - 0x46800000, normal)
        byte = tl.where(size > 0x43E00000, 0x7E, byte) | ((bits >> 24) & 0x80)
        byte = tl.where(size > 0x7F800000, 0x7F, byte).to(tl.uint8)
    return byte


@triton.jit
def float16_from_e4m3(byte, NATIVE: tl.constexpr):
    """What e4m3 bytes mean, exactly, as float16."""
    if NATIVE:
        value = byte.to(tl.float8e4nv, bitcast=True).to(tl.float16)
    else:
        # float16 has the same fields, 7 bits further left, and an exponent bias larger by 8: the
        # shifted byte is the value times 2**-8, subnormals included. NaN needs a word of its own.
        wide = byte.to(tl.uint16)
        bits = ((wide & 0x80) << 8) | ((wide & 0x7F) << 7)
        bits = tl.where((wide & 0x7F) == 0x7F, 0x7E00, bits).to(tl.uint16)
        value = bits.to(tl.float16, bitcast=True) * 256.0
    return value.to(tl.float16)


@triton.jit
def _inverse(scale):
    """1 / scale as the sum of two float32; the second is 0 where there is no number to add."""
    high = tl.div_rn(1.0, scale)
    low = tl.div_rn(tl.fma(-high, scale, 1.0), scale)
    return high, tl.where(low == low, low, 0.0)


@triton.jit
def _quotient(x, scale, high, low, INTERPRET: tl.constexpr):
    """x / scale in 2 instructions instead of 17, and the same e4m3 afterwards.

    The sum is rounded once, so it is the rounded quotient unless that lies within 2**-24 of a step
    of halfway between two float32. For e4m3 this could matter only next to one of its own ties, a
    number t of 5 bits: (t * 2**20 +- 1) * scale, of 25 bits times 24, would miss the 8 bits of x by
    a unit or two of 2**-49. Then t divides the top 4 bits of scale, rounded, and the one case left,
    a scale of 24 ones, has a second term that is exact. So up to scales of 2**100, where the second
    term runs out of exponents. The interpreter has no fused multiply-add, and divides.
    """
    return tl.div_rn(x, scale) if INTERPRET else tl.fma(x, high, x * low)


@triton.jit(do_not_specialize=["num_tokens", "num_slots"])
def _append_kernel(
    latent_ptr, rope_ptr, cache_ptr, slot_ptr, scale_ptr,
    num_tokens, num_slots, block_size,
    latent_stride, rope_stride, block_stride, token_stride,
    LAYOUT: tl.constexpr, DENSE: tl.constexpr, NATIVE: tl.constexpr, INTERPRET: tl.constexpr,
    T: tl.constexpr,
):  # fmt: skip
    token_T = tl.program_id(0) * T + tl.arange(0, T)
    is_token_T = token_T < num_tokens
    slot_T = tl.load(slot_ptr + token_T, mask=is_token_T, other=-1)
    # The row is read whether it is kept or not, so that it need not wait for its slot.
    row_T = token_T.to(tl.int64)
    rope_TR = tl.load(
        rope_ptr + row_T[:, None] * rope_stride + tl.arange(0, _ROPE)[None, :],
        mask=is_token_T[:, None],
    )
    latent_at_TGD = (
        row_T[:, None, None] * latent_stride
        + tl.arange(0, _NUM_GROUPS)[None, :, None] * _GROUP
        + tl.arange(0, _GROUP)[None, None, :]
    )
    latent_TGD = tl.load(latent_ptr + latent_at_TGD, mask=is_token_T[:, None, None])

    is_kept_T = (slot_T >= 0) & (slot_T < num_slots)
    if DENSE:
        into_T = slot_T * token_stride
    else:
        into_T = slot_T // block_size * block_stride + slot_T % block_size * token_stride
    cache_T = cache_ptr + into_T
    rope_into_TR = cache_T[:, None] + tl.arange(0, _ROPE)[None, :]
    latent_into_TGD = (
        cache_T[:, None, None]
        + tl.arange(0, _NUM_GROUPS)[None, :, None] * _GROUP
        + tl.arange(0, _GROUP)[None, None, :]
    )
    keep_TR, keep_TGD = is_kept_T[:, None], is_kept_T[:, None, None]

    if LAYOUT == "bf16":
        tl.store(latent_into_TGD, latent_TGD, mask=keep_TGD)
        tl.store(rope_into_TR + _LATENT, rope_TR, mask=keep_TR)
    elif LAYOUT == "fp8":
        scale = tl.load(scale_ptr)
        high, low = _inverse(scale)
        latent_TGD, rope_TR = latent_TGD.to(tl.float32), rope_TR.to(tl.float32)
        to_latent_TGD = _quotient(latent_TGD, scale, high, low, INTERPRET)
        to_rope_TR = _quotient(rope_TR, scale, high, low, INTERPRET)
        # Infinities, and what overflows, may meet their opposite in the second term.
        latent_TGD = tl.where(to_latent_TGD == to_latent_TGD, to_latent_TGD, latent_TGD * high)
        rope_TR = tl.where(to_rope_TR == to_rope_TR, to_rope_TR, rope_TR * high)
        tl.store(latent_into_TGD, e4m3_from_float(latent_TGD, NATIVE), mask=keep_TGD)
        tl.store(rope_into_TR + _LATENT, e4m3_from_float(rope_TR, NATIVE), mask=keep_TR)
    else:
        latent_TGD = latent_TGD.to(tl.float32)
        scale_TG = tl.div_rn(tl.max(tl.abs(latent_TGD), axis=2), _E4M3_MAX)
        scale_TG = tl.maximum(scale_TG, _SMALLEST_SCALE)
        scale_TG1 = tl.expand_dims(scale_TG, 2)
        high_TG1, low_TG1 = _inverse(scale_TG1)
        latent_TGD = _quotient(latent_TGD, scale_TG1, high_TG1, low_TG1, INTERPRET)
        tl.store(latent_into_TGD, e4m3_from_float(latent_TGD, NATIVE), mask=keep_TGD)
        scales_T = (cache_T + _SCALES_AT).to(tl.pointer_type(tl.float32))
        scale_into_TG = scales_T[:, None] + tl.arange(0, _NUM_GROUPS)[None, :]
        tl.store(scale_into_TG, scale_TG, mask=is_kept_T[:, None])
        ropes_T = (cache_T + _ROPE_AT).to(tl.pointer_type(tl.bfloat16))
        tl.store(ropes_T[:, None] + tl.arange(0, _ROPE)[None, :], rope_TR, mask=keep_TR)


def mla_append(
    latent_TC: Tensor,
    rope_TR: Tensor,
    cache: Tensor,
    slot_T: Tensor,
    *,
    layout: CacheLayout | None = None,
    cache_scale: Tensor | None = None,
    check_slots: bool = False,
) -> None:
    """Write tokens into their slots. `mla_append_ref` states the same thing in plain PyTorch.

    Args:
        latent_TC: bfloat16 (T, 512); rows may be strided, as slices of one projection are.
        rope_TR: bfloat16 (T, 64), its rotation applied; rows may be strided.
        cache: see the layouts above; rows must be contiguous and start at multiples of 16 bytes.
        slot_T: int64 (T,), block * block_size + offset, no kept slot twice. A negative slot is
            padding: its row goes nowhere.
        layout: must be the cache's own; None reads it off the cache.
        cache_scale: float32, one element, for the layout `fp8`; None is 1.
        check_slots: read the slots back (a wait for the device) and refuse one past the end or
            named twice. Without it a slot past the end is not written.

    Raises:
        ValueError, TypeError: an argument does not fit; the message names it.
    """
    _check_devices(cache, latent_TC=latent_TC, rope_TR=rope_TR, slot_T=slot_T)
    word = None if layout is None else layout.value
    _append_op(latent_TC, rope_TR, cache, slot_T, word, cache_scale, check_slots)


@torch.library.custom_op("r1kit::mla_append", mutates_args=("cache",))
def _append_op(
    latent_TC: Tensor,
    rope_TR: Tensor,
    cache: Tensor,
    slot_T: Tensor,
    layout: str | None,
    cache_scale: Tensor | None,
    check_slots: bool,
) -> None:
    """Check and launch; an operator, so that torch.compile traces through it."""
    expected = None if layout is None else CacheLayout(layout)
    found = _check(latent_TC, rope_TR, cache, slot_T, expected, cache_scale)
    if check_slots:
        _check_slots(slot_T, cache.shape[0] * cache.shape[1])
    if cache.device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"cache: on {cache.device}, where this kernel cannot run; it needs a GPU, and "
            "mla_append_ref runs anywhere"
        )
    _launch(latent_TC, rope_TR, cache, slot_T, found, cache_scale)


@_append_op.register_fake
def _append_fake(
    latent_TC: Tensor,
    rope_TR: Tensor,
    cache: Tensor,
    slot_T: Tensor,
    layout: str | None,
    cache_scale: Tensor | None,
    check_slots: bool,
) -> None:
    """Nothing to say of shapes: the cache keeps its own."""


def _launch(
    latent_TC: Tensor,
    rope_TR: Tensor,
    cache: Tensor,
    slot_T: Tensor,
    layout: CacheLayout,
    cache_scale: Tensor | None,
) -> None:
    """Start the kernel on checked arguments."""
    num_tokens = slot_T.shape[0]
    if num_tokens == 0 or cache.numel() == 0:
        return
    few, many = APPEND_TILES[layout]
    tile = few if num_tokens <= FEW_TOKENS else many
    rows = cache.view(torch.uint8) if cache.dtype == torch.float8_e4m3fn else cache
    if cache_scale is None and layout == CacheLayout.FP8:
        cache_scale = torch.ones(1, dtype=torch.float32, device=cache.device)
    num_blocks, block_size, _ = cache.shape
    block_stride, token_stride, _ = rows.stride()
    launch: Any = _append_kernel[(triton.cdiv(num_tokens, tile.tokens),)]
    launch(
        latent_TC, rope_TR, rows, slot_T, cache_scale,
        num_tokens, num_blocks * block_size, block_size,
        latent_TC.stride(0), rope_TR.stride(0), block_stride, token_stride,
        LAYOUT=layout, DENSE=block_stride == block_size * token_stride,
        NATIVE=has_e4m3(cache.device), INTERPRET=bool(triton.knobs.runtime.interpret),
        T=tile.tokens, num_warps=tile.warps,
    )  # fmt: skip


def has_e4m3(device: torch.device) -> bool:
    """Whether the device itself converts e4m3 (sm_89 and up); the interpreter never does."""
    if device.type != "cuda" or triton.knobs.runtime.interpret:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 9)


def _check(
    latent_TC: Tensor,
    rope_TR: Tensor,
    cache: Tensor,
    slot_T: Tensor,
    layout: CacheLayout | None,
    cache_scale: Tensor | None,
) -> CacheLayout:
    """Refuse what does not fit, and return the cache's layout."""
    found = layout_of(cache)
    if layout is not None and layout != found:
        raise ValueError(f"layout: {layout}, but a cache {_of(cache)} is laid out as {found}")
    for name, rows, width in (("latent_TC", latent_TC, LATENT), ("rope_TR", rope_TR, ROPE)):
        if rows.dtype != torch.bfloat16:
            raise TypeError(f"{name}: must be bfloat16, got {rows.dtype}")
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(f"{name}: must be (num_tokens, {width}), got {tuple(rows.shape)}")
        if rows.stride(1) != 1:
            raise ValueError(f"{name}: columns must be contiguous, got strides {rows.stride()}")
    if slot_T.dtype != torch.int64:
        raise TypeError(f"slot_T: must be int64, got {slot_T.dtype}")
    if slot_T.ndim != 1 or not slot_T.is_contiguous():
        raise ValueError(f"slot_T: must be one contiguous row, got {_of(slot_T)}")
    if not latent_TC.shape[0] == rope_TR.shape[0] == slot_T.shape[0]:
        raise ValueError(
            f"slot_T: one slot per token, got {slot_T.shape[0]} for {latent_TC.shape[0]} latents "
            f"and {rope_TR.shape[0]} rope keys"
        )
    check_rows(cache)
    check_scale("cache_scale", cache_scale, cache.device)
    if cache_scale is not None and found != CacheLayout.FP8:
        raise ValueError(f"cache_scale: only the layout fp8 has one, and this cache is {found}")
    return found


def _check_devices(cache: Tensor, **tensors: Tensor) -> None:
    """Refuse tensors that are not where the cache is."""
    for name, tensor in tensors.items():
        if tensor.device != cache.device:
            raise ValueError(f"{name}: on {tensor.device}, but the cache is on {cache.device}")


def check_rows(cache: Tensor) -> None:
    """Refuse a cache whose rows are scattered or start between multiples of 16 bytes."""
    size = cache.element_size()
    if cache.stride(2) != 1 or any(stride * size % 16 for stride in cache.stride()[:2]):
        raise ValueError(
            "cache: rows must be contiguous and lie multiples of 16 bytes apart, got strides "
            f"{cache.stride()} of {size} bytes"
        )
    if (start := cache.data_ptr()) % 16:
        raise ValueError(f"cache: must start at a multiple of 16 bytes, got address {start:#x}")


def check_scale(name: str, scale: Tensor | None, device: torch.device) -> None:
    """Refuse a scale that is not one float32 on the device."""
    if scale is None:
        return
    if scale.dtype != torch.float32:
        raise TypeError(f"{name}: must be float32, got {scale.dtype}")
    if scale.numel() != 1:
        raise ValueError(f"{name}: must hold one number, got {tuple(scale.shape)}")
    if scale.device != device:
        raise ValueError(f"{name}: on {scale.device}, but the cache is on {device}")


def _check_slots(slot_T: Tensor, num_slots: int) -> None:
    """Refuse a slot past the end, or one named twice."""
    kept, count = slot_T[slot_T >= 0].unique(return_counts=True)
    if kept.numel() and int(kept[-1]) >= num_slots:
        raise ValueError(f"slot_T: slot {int(kept[-1])} in a cache of {num_slots} slots")
    if (twice := kept[count > 1]).numel():
        raise ValueError(f"slot_T: slot {int(twice[0])} is named more than once")


def _of(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()}"


def mla_append_ref(
    latent_TC: Tensor,
    rope_TR: Tensor,
    cache: Tensor,
    slot_T: Tensor,
    *,
    layout: CacheLayout | None = None,
    cache_scale: Tensor | None = None,
) -> None:
    """The definition: slow, obvious, any device; byte for byte what `mla_append` writes."""
    _check_devices(cache, latent_TC=latent_TC, rope_TR=rope_TR, slot_T=slot_T)
    layout = _check(latent_TC, rope_TR, cache, slot_T, layout, cache_scale)
    _check_slots(slot_T, cache.shape[0] * cache.shape[1])
    if layout == CacheLayout.BF16:
        row_TX = torch.cat([latent_TC, rope_TR], dim=1).view(torch.uint8)
    elif layout == CacheLayout.FP8:
        scale = 1.0 if cache_scale is None else cache_scale.reshape(1, 1)
        row_TX = _e4m3(torch.cat([latent_TC, rope_TR], dim=1).float() / scale)
    else:
        latent_TGD = latent_TC.float().unflatten(1, (NUM_GROUPS, GROUP))
        scale_TG = latent_TGD.abs().nan_to_num(nan=0.0, posinf=torch.inf).amax(dim=2) / E4M3_MAX
        scale_TG = scale_TG.clamp(min=SMALLEST_SCALE)
        row_TX = torch.cat(
            [
                _e4m3((latent_TGD / scale_TG[:, :, None]).flatten(1)),
                scale_TG.view(torch.uint8),
                rope_TR.contiguous().view(torch.uint8),
            ],
            dim=1,
        )
    kept_T = slot_T >= 0
    slot_T = slot_T[kept_T]
    block_size = cache.shape[1]
    cache.view(torch.uint8)[slot_T // block_size, slot_T % block_size] = row_TX[kept_T]


def _e4m3(value: Tensor) -> Tensor:
    """Saturated e4m3 bytes; torch's own cast would turn what is beyond +-448 into NaN."""
    byte = value.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).view(torch.uint8)
    return torch.where(value.isnan(), 0x7F, byte)


def read_cache(
    cache: Tensor, layout: CacheLayout | None = None, cache_scale: Tensor | None = None
) -> Tensor:
    """What the bytes mean: float64 (num_blocks, block_size, 576), exact in every layout."""
    found = layout_of(cache)
    if layout is not None and layout != found:
        raise ValueError(f"layout: {layout}, but a cache {_of(cache)} is laid out as {found}")
    check_scale("cache_scale", cache_scale, cache.device)
    if found == CacheLayout.BF16:
        return cache.double()
    byte = cache.view(torch.uint8)
    if found == CacheLayout.FP8:
        scale = 1.0 if cache_scale is None else cache_scale.double().reshape(1, 1, 1)
        return byte.view(torch.float8_e4m3fn).double() * scale
    scales_at, rope_at = LATENT, LATENT + 4 * NUM_GROUPS
    latent = byte[..., :scales_at].view(torch.float8_e4m3fn).double()
    scale = byte[..., scales_at:rope_at].view(torch.float32).double()
    rope = byte[..., rope_at:].view(torch.bfloat16).double()
    latent = latent.unflatten(-1, (NUM_GROUPS, GROUP)) * scale[..., None]
    return torch.cat([latent.flatten(-2), rope], dim=-1)

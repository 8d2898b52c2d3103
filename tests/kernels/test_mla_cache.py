"""The latent cache: the bytes that the append kernel writes, by the definition and by hand."""

import struct
from collections.abc import Callable

import pytest
import torch
from r1kit.kernels import mla_cache
from r1kit.kernels.mla_cache import CacheLayout, layout_of, mla_append, mla_append_ref, read_cache
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUTS = list(CacheLayout)
DTYPE_AND_WIDTH = {
    CacheLayout.BF16: (torch.bfloat16, 576),
    CacheLayout.FP8: (torch.float8_e4m3fn, 576),
    CacheLayout.FP8_DS: (torch.uint8, 656),
}


def make_cache(layout: CacheLayout, num_blocks: int, block_size: int, fill: int = 0xA5) -> Tensor:
    """A cache whose every byte is `fill`, so that a stray write shows."""
    dtype, width = DTYPE_AND_WIDTH[layout]
    size = torch.empty((), dtype=dtype).element_size()
    shape = (num_blocks, block_size, width * size)
    return torch.full(shape, fill, dtype=torch.uint8, device=DEVICE).view(dtype)


def make_rows(num_tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents whose groups differ in size a thousandfold, and rope keys, as slices of one row."""
    rng = torch.Generator().manual_seed(seed)
    row_TX = torch.randn(num_tokens, 96 + 576, generator=rng)
    row_TX[:, 96:608] *= torch.logspace(-2, 1, 4).repeat_interleave(128)
    row_TX[:, :96] = float("nan")  # betrays a read beside the slices
    row_TX = row_TX.bfloat16().to(DEVICE)
    return row_TX[:, 96:608], row_TX[:, 608:]


def bytes_of(cache: Tensor) -> Tensor:
    return cache.view(torch.uint8).cpu()


def scale_for(layout: CacheLayout, scale: float) -> Tensor | None:
    return torch.tensor([scale], device=DEVICE) if layout == CacheLayout.FP8 else None


@pytest.mark.parametrize("few_tokens", [0, 100], ids=["many", "few"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_writes_the_bytes_of_the_definition_and_no_others(
    layout: CacheLayout, few_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mla_cache, "FEW_TOKENS", few_tokens)  # so that both tiles have a turn
    latent_TC, rope_TR = make_rows(13)
    slot_T = torch.randperm(64, generator=torch.Generator().manual_seed(1))[:13]
    slot_T[[3, 12]] = torch.tensor([-1, -(2**40)])
    slot_T = slot_T.to(DEVICE)
    got, want = make_cache(layout, 4, 16), make_cache(layout, 4, 16)
    scale = scale_for(layout, 0.037)
    mla_append(latent_TC, rope_TR, got, slot_T, cache_scale=scale)
    mla_append_ref(latent_TC, rope_TR, want, slot_T, cache_scale=scale)

    assert torch.equal(bytes_of(got), bytes_of(want))
    assert not torch.equal(bytes_of(want), bytes_of(make_cache(layout, 4, 16)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_finds_its_rows_in_a_strided_cache(layout: CacheLayout) -> None:
    """Blocks with padding behind them, as where a cache holds all layers of a block together."""
    latent_TC, rope_TR = make_rows(5)
    slot_T = torch.tensor([40, 16, 15, 0, 47], device=DEVICE)
    whole = make_cache(layout, 3, 32)
    mla_append(latent_TC, rope_TR, whole[:, 16:], slot_T)
    want = make_cache(layout, 3, 16)
    mla_append_ref(latent_TC, rope_TR, want, slot_T)

    assert torch.equal(bytes_of(whole[:, 16:].contiguous()), bytes_of(want))
    assert (bytes_of(whole[:, :16].contiguous()) == 0xA5).all()


def test_bf16_keeps_every_bit() -> None:
    latent_TC, rope_TR = make_rows(3)
    cache = make_cache(CacheLayout.BF16, 1, 16)
    mla_append(latent_TC, rope_TR, cache, torch.arange(3, device=DEVICE))
    assert torch.equal(cache[0, :3, :512], latent_TC)
    assert torch.equal(cache[0, :3, 512:], rope_TR)


def test_the_ds_layout_has_its_numbers_where_vllm_looks_for_them() -> None:
    """Byte for byte by hand, with struct: latent, then scales, then rope."""
    latent_TC = torch.zeros(1, 512, dtype=torch.bfloat16, device=DEVICE)
    latent_TC[0, 0], latent_TC[0, 1], latent_TC[0, 130], latent_TC[0, 511] = 896.0, -2.0, 3.5, -0.0
    rope_TR = torch.full((1, 64), 1.5, dtype=torch.bfloat16, device=DEVICE)
    rope_TR[0, 63] = -2.0
    cache = make_cache(CacheLayout.FP8_DS, 1, 16)
    mla_append(latent_TC, rope_TR, cache, torch.tensor([1], device=DEVICE))

    row = bytes(cache[0, 1].tolist())
    assert row[0:3] == bytes([0x7E, 0xB8, 0x00])  # 448 and -1, of a scale of 2
    assert (row[130], row[511]) == (0x7E, 0x80)  # the largest of its group; minus zero
    assert struct.unpack("<4f", row[512:528]) == (2.0, 2.0**-7, 2.0**-126, 2.0**-126)
    assert row[528:656] == struct.pack("<H", 0x3FC0) * 63 + struct.pack("<H", 0xC000)


def test_a_group_of_zeros_reads_back_as_zeros() -> None:
    latent_TC, rope_TR = torch.zeros_like(make_rows(1)[0]), make_rows(1)[1]
    cache = make_cache(CacheLayout.FP8_DS, 1, 16)
    mla_append(latent_TC, rope_TR, cache, torch.tensor([0], device=DEVICE))
    assert (read_cache(cache)[0, 0, :512] == 0).all()


def test_every_bfloat16_becomes_the_nearest_e4m3() -> None:
    """All 65,536 values, at a scale of 1: ties go to the even byte, the rest saturates."""
    value = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    latent_TC = value.view(128, 512).to(DEVICE)
    rope_TR = torch.zeros(128, 64, dtype=torch.bfloat16, device=DEVICE)
    cache = make_cache(CacheLayout.FP8, 8, 16)
    mla_append(latent_TC, rope_TR, cache, torch.arange(128, device=DEVICE))

    got = bytes_of(cache)[..., :512].flatten()
    grid = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    size = value.double().abs().nan_to_num(nan=0.0, posinf=1e39).clamp(max=448.0)
    above = torch.searchsorted(grid, size).clamp(1, 0x7E)
    low, high = size - grid[above - 1], grid[above] - size
    up = (high < low) | ((high == low) & (above % 2 == 0))
    want = torch.where(up, above, above - 1) + 0x80 * value.signbit()
    want = torch.where(value.isnan(), 0x7F, want)
    assert torch.equal(got, want.to(torch.uint8))


@pytest.mark.parametrize("scale", [7.0, 15.0])
def test_quotients_are_rounded_as_a_division_and_not_as_a_product(scale: float) -> None:
    """Quotients halfway between two e4m3: times 1 / 7 or 1 / 15, rounded, some fall to one side."""
    tie = torch.arange(17, 32, 2, dtype=torch.float64) / 16
    value = (tie * scale).bfloat16()
    exact = value.double() == tie * scale
    even = torch.tensor([1.0, 1.25, 1.25, 1.5, 1.5, 1.75, 1.75, 2.0], dtype=torch.float64)
    latent_TC = torch.zeros(1, 512, dtype=torch.bfloat16)
    latent_TC[0, : len(tie)] = value
    rope_TR = torch.zeros(1, 64, dtype=torch.bfloat16, device=DEVICE)
    cache = make_cache(CacheLayout.FP8, 1, 16)
    scale_1 = torch.tensor([scale], device=DEVICE)
    slot_T = torch.tensor([0], device=DEVICE)
    mla_append(latent_TC.to(DEVICE), rope_TR, cache, slot_T, cache_scale=scale_1)
    got = read_cache(cache).cpu()[0, 0, : len(tie)]
    assert exact.any() and torch.equal(got[exact], even[exact])


def test_nan_stays_nan_and_leaves_its_group_s_scale_alone() -> None:
    latent_TC, rope_TR = make_rows(1)
    latent_TC[0, 5] = float("nan")
    got, want = make_cache(CacheLayout.FP8_DS, 1, 16), make_cache(CacheLayout.FP8_DS, 1, 16)
    slot_T = torch.tensor([0], device=DEVICE)
    mla_append(latent_TC, rope_TR, got, slot_T)
    mla_append_ref(latent_TC, rope_TR, want, slot_T)
    assert torch.equal(bytes_of(got), bytes_of(want))
    read = read_cache(got)[0, 0]
    assert read.isnan().nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reads_back_what_was_written_within_half_a_step(layout: CacheLayout) -> None:
    latent_TC, rope_TR = make_rows(16)
    cache = make_cache(layout, 1, 16)
    scale = scale_for(layout, 0.1)
    mla_append(latent_TC, rope_TR, cache, torch.arange(16, device=DEVICE), cache_scale=scale)
    read = read_cache(cache, layout, scale)[0]
    want = torch.cat([latent_TC, rope_TR], dim=1).double()
    if layout == CacheLayout.BF16:
        assert torch.equal(read, want)
        return
    # e4m3 has 3 mantissa bits: half a step is 2**-4 of the value, or 2**-10 of the scale.
    step = 0.1 if layout == CacheLayout.FP8 else want[:, :512].abs().max().item() / 448
    error = (read - want).abs()
    assert (error <= want.abs() * 2**-4 * (1 + 2**-20) + step * 2**-10).all()
    if layout == CacheLayout.FP8_DS:
        assert torch.equal(read[:, 512:], want[:, 512:])
        small = latent_TC[:, :128].double()  # a tenth of a percent of the largest: its own scale
        assert (error[:, :128] <= small.abs() * 2**-4 + small.abs().max() / 448 * 2**-10).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slots_past_the_end_are_refused_or_not_written(layout: CacheLayout) -> None:
    latent_TC, rope_TR = make_rows(2)
    pool = make_cache(layout, 3, 16)
    cache, beyond = pool[:2], pool[2:]
    slot_T = torch.tensor([31, 32], device=DEVICE)
    mla_append(latent_TC, rope_TR, cache, slot_T)
    assert (bytes_of(beyond) == 0xA5).all()
    with pytest.raises(ValueError, match="slot_T: slot 32 in a cache of 32 slots"):
        mla_append(latent_TC, rope_TR, cache, slot_T, check_slots=True)
    with pytest.raises(ValueError, match="slot_T: slot 7 is named more than once"):
        mla_append(latent_TC, rope_TR, cache, torch.full_like(slot_T, 7), check_slots=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_tokens_and_no_blocks_are_no_work(layout: CacheLayout) -> None:
    latent_TC, rope_TR = make_rows(1)
    none = torch.empty(0, dtype=torch.int64, device=DEVICE)
    cache = make_cache(layout, 1, 16)
    mla_append(latent_TC[:0], rope_TR[:0], cache, none)
    assert (bytes_of(cache) == 0xA5).all()
    mla_append(latent_TC, rope_TR, cache[:0], torch.tensor([0], device=DEVICE))


def test_uint8_bytes_are_an_fp8_cache_too() -> None:
    latent_TC, rope_TR = make_rows(3)
    cache = make_cache(CacheLayout.FP8, 1, 16)
    plain = make_cache(CacheLayout.FP8, 1, 16).view(torch.uint8)
    slot_T = torch.arange(3, device=DEVICE)
    mla_append(latent_TC, rope_TR, cache, slot_T)
    mla_append(latent_TC, rope_TR, plain, slot_T)
    assert torch.equal(bytes_of(cache), plain.cpu())
    assert layout_of(plain) == CacheLayout.FP8


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_knows_its_row(layout: CacheLayout) -> None:
    cache = make_cache(layout, 2, 16)
    assert layout_of(cache) == layout
    assert layout.row_bytes == cache.shape[-1] * cache.element_size()


def test_torch_compile_traces_through_the_append() -> None:
    latent_TC, rope_TR = make_rows(2)
    slot_T = torch.tensor([4, -1], device=DEVICE)

    def step(latent_TC: Tensor, rope_TR: Tensor, cache: Tensor, slot_T: Tensor) -> Tensor:
        mla_append(latent_TC * 2, rope_TR, cache, slot_T)
        return cache[0, 4, :512] + 0

    got = make_cache(CacheLayout.BF16, 1, 16)
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    row = compiled(latent_TC, rope_TR, got, slot_T)
    assert torch.equal(row, latent_TC[0] * 2)
    assert torch.equal(got[0, 4, 512:], rope_TR[0])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"latent_TC": torch.zeros(2, 512)}, TypeError, "latent_TC: must be bfloat16, got torch.f"),
        (
            {"latent_TC": torch.zeros(2, 511, dtype=torch.bfloat16)},
            ValueError,
            r"latent_TC: must be \(num_tokens, 512\), got \(2, 511\)",
        ),
        (
            {"rope_TR": torch.zeros(64, 2, dtype=torch.bfloat16).T},
            ValueError,
            "rope_TR: columns must be contiguous",
        ),
        ({"slot_T": torch.zeros(2, dtype=torch.int32)}, TypeError, "slot_T: must be int64"),
        ({"slot_T": torch.zeros(3, dtype=torch.int64)}, ValueError, "slot_T: one slot per token"),
        ({"slot_T": torch.zeros(4, dtype=torch.int64)[::2]}, ValueError, "one contiguous row"),
        ({"cache": torch.zeros(1, 16, 575)}, ValueError, "cache: torch.float32 .* no known layout"),
        (
            {"cache": torch.zeros(1, 16, 584, dtype=torch.uint8)[..., :576]},
            ValueError,
            "cache: rows must be contiguous and lie multiples of 16 bytes apart",
        ),
        (
            {"cache": torch.zeros(16 * 576 + 8, dtype=torch.uint8)[8:].view(1, 16, 576)},
            ValueError,
            "cache: must start at a multiple of 16 bytes, got address 0x",
        ),
        ({"layout": CacheLayout.FP8_DS}, ValueError, "layout: fp8_ds_mla, but a cache .* as bf16"),
        ({"cache_scale": torch.ones(1)}, ValueError, "cache_scale: only the layout fp8 has one"),
        ({"cache_scale": torch.ones(2)}, ValueError, "cache_scale: must hold one number"),
        ({"cache_scale": torch.ones(1).double()}, TypeError, "cache_scale: must be float32"),
        (
            {"slot_T": torch.zeros(2, dtype=torch.int64, device="meta")},
            ValueError,
            "slot_T: on meta, but the cache is on cpu",
        ),
    ],
)
@pytest.mark.parametrize("append", [mla_append, mla_append_ref])
def test_refuses_what_does_not_fit(
    append: Callable[..., None], change: dict[str, object], error: type[Exception], says: str
) -> None:
    arguments: dict[str, object] = {
        "latent_TC": torch.zeros(2, 512, dtype=torch.bfloat16),
        "rope_TR": torch.zeros(2, 64, dtype=torch.bfloat16),
        "cache": torch.zeros(1, 16, 576, dtype=torch.bfloat16),
        "slot_T": torch.zeros(2, dtype=torch.int64),
    }
    with pytest.raises(error, match=says):
        append(**(arguments | change))

"""The inputs that the tests of MLA decode share, and how close an answer has to come."""

import torch
from r1kit.kernels.mla_cache import LATENT, ROPE, WIDTH, CacheLayout, mla_append_ref
from r1kit.kernels.mla_decode import DecodeInputs, mla_decode_ref
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
POISON = 0x7F
"""e4m3's NaN; a byte pair of it is a bfloat16 of 3e38, so bf16 caches take 0xFF instead."""


def make_inputs(
    lengths: list[int],
    *,
    layout: CacheLayout,
    num_heads: int,
    num_queries: int = 1,
    block_size: int = 16,
    fp8_query: bool = False,
    invariant: bool = False,
    seed: int = 0,
    query_size: float = 4.0,
) -> DecodeInputs:
    """Paged inputs whose unread bytes are all NaN, and whose table is huge past the end.

    Blocks are permuted, one spare block stands between them, and query rows are strided.
    """
    rng = torch.Generator().manual_seed(seed)
    num_blocks = [-(-length // block_size) for length in lengths]
    total, width = 2 * sum(num_blocks) + 1, max(num_blocks) + 2
    order = torch.randperm(total, generator=rng)
    dtype = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}.get(layout.value, torch.uint8)
    poison = 0xFF if layout == CacheLayout.BF16 else POISON
    row = torch.full((total, block_size, layout.row_bytes), poison, dtype=torch.uint8)
    if layout == CacheLayout.FP8_DS:
        row[..., 512:] = 0xFF  # the scales and the rope keys are no e4m3
    cache = row.view(dtype)
    cache_scale = torch.tensor([0.00171]) if layout == CacheLayout.FP8 else None
    table = torch.full((len(lengths), width), 2**31 - 1, dtype=torch.int32)
    for sequence, length in enumerate(lengths):
        block_M, order = order[: num_blocks[sequence]], order[num_blocks[sequence] :]
        table[sequence, : num_blocks[sequence]] = block_M.int()
        token_T = torch.arange(length)
        slot_T = block_M[token_T // block_size] * block_size + token_T % block_size
        latent = torch.randn(length, LATENT, generator=rng)
        latent *= torch.logspace(-2, -1, 4).repeat_interleave(128) * (1 + token_T % 7)[:, None] / 4
        rope = torch.randn(length, ROPE, generator=rng) / 4
        mla_append_ref(latent.bfloat16(), rope.bfloat16(), cache, slot_T, cache_scale=cache_scale)
    padded = torch.full((len(lengths), num_queries, num_heads, WIDTH + 32), torch.nan)
    padded[..., :WIDTH] = torch.randn(padded[..., :WIDTH].shape, generator=rng) * query_size
    query = padded.to(torch.float8_e4m3fn if fp8_query else torch.bfloat16).to(DEVICE)
    return DecodeInputs(
        q_latent_BQHC=query[..., :LATENT],
        q_rope_BQHR=query[..., LATENT:WIDTH],
        cache=cache.to(DEVICE),
        layout=layout,
        block_table_BM=table.to(DEVICE),
        length_B=torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
        scale=192**-0.5,
        query_scale=torch.tensor([0.83], device=DEVICE) if fp8_query else None,
        cache_scale=None if cache_scale is None else cache_scale.to(DEVICE),
        invariant=invariant,
    )


def reference_of(inputs: DecodeInputs) -> tuple[Tensor, Tensor]:
    """`mla_decode_ref` of checked inputs."""
    return mla_decode_ref(
        (inputs.q_latent_BQHC, inputs.q_rope_BQHR),
        inputs.cache,
        inputs.block_table_BM,
        inputs.length_B,
        scale=inputs.scale,
        query_scale=inputs.query_scale,
        cache_scale=inputs.cache_scale,
    )


def assert_close(out: Tensor, lse: Tensor, want: Tensor, want_lse: Tensor) -> None:
    """The limits of FlashMLA's own tests: rounding steps of bfloat16, and the cosine."""
    assert out.dtype == torch.bfloat16 and lse.dtype == torch.float32
    torch.testing.assert_close(out.double(), want, atol=8e-4, rtol=2.01 / 128)
    torch.testing.assert_close(lse.double(), want_lse, atol=1e-6, rtol=8.01 / 65536)
    norm = (out.double() ** 2 + want**2).sum()
    if norm > 0:
        assert 1 - 2 * (out.double() * want).sum() / norm < 5e-6

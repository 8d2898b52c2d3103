"""The inputs of the checks: small paged caches in which whatever must not be read is poisoned.

Every byte of a cache begins as 0xFF, which is NaN in bfloat16, in e4m3 and in float32; only the
tokens that are there are written. Entries of a block table past a sequence's end name block
2**31 - 1. Blocks are handed out in random order, and some belong to nobody.
Shapes: B sequences, Q query tokens, H heads, T tokens in all, M entries a table row, N blocks of K.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..mla_cache import LATENT, ROPE, WIDTH, CacheLayout, mla_append_ref

NOWHERE = 2**31 - 1
POISON = 0xFF
SPARE_BLOCKS = 3
R1_SCALE = 192**-0.5
Q_SPREAD = 0.72
"""Standard deviation of a normal number cut off at 1 on both sides."""
K_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Spec:
    """What to draw.

    Attributes:
        lengths: tokens in each sequence's cache.
        pad_block: tokens of poison behind each block, which make the cache strided.
        pad_token: bytes of poison behind each token, a multiple of 16.
        num_blocks: blocks of the cache, or None for what is needed and a few.
        table_width: entries of a table row, or None for what is needed and two.
        first_block: the least block that is handed out.
    """

    lengths: tuple[int, ...]
    heads: int = 16
    query_tokens: int = 1
    layout: CacheLayout = CacheLayout.BF16
    query_dtype: str = "bf16"
    block_size: int = 64
    scale: float = R1_SCALE
    seed: int = 0
    pad_block: int = 0
    pad_token: int = 0
    num_blocks: int | None = None
    table_width: int | None = None
    first_block: int = 0

    @property
    def score_spread(self) -> float:
        """The standard deviation of the scores."""
        return float(self.scale * Q_SPREAD * K_SPREAD * WIDTH**0.5)


@dataclass(frozen=True, slots=True)
class Problem:
    """What `mla_decode` gets.

    Attributes:
        query: (B, Q, H, 576), or the pair.
        cache: (N, K, 576 or 656).
    """

    spec: Spec
    query: Tensor | tuple[Tensor, Tensor]
    cache: Tensor
    table_BM: Tensor
    length_B: Tensor
    query_scale: Tensor | None
    cache_scale: Tensor | None

    @property
    def joined(self) -> Tensor:
        """The queries as one tensor."""
        return self.query if isinstance(self.query, Tensor) else torch.cat(self.query, -1)

    def named(self) -> dict[str, Any]:
        """All of it, by `mla_decode`'s names."""
        return {
            "query": self.query,
            "cache": self.cache,
            "block_table": self.table_BM,
            "lengths": self.length_B,
            "scale": self.spec.scale,
            "query_scale": self.query_scale,
            "cache_scale": self.cache_scale,
        }

    def with_query(self, query: Tensor | tuple[Tensor, Tensor]) -> "Problem":
        """The same with its queries in another form."""
        return replace(self, query=query)

    def part(self, heads: int, query_tokens: int) -> "Problem":
        """The same for the first heads and the last query tokens: a strided view."""
        spec = replace(self.spec, heads=heads, query_tokens=query_tokens)
        return replace(self, spec=spec, query=self.joined[:, -query_tokens:, :heads])

    def rows(self, chosen: list[int]) -> "Problem":
        """The same for some of the sequences, in this order; the cache stays whole."""
        return replace(
            self,
            spec=replace(self.spec, lengths=tuple(self.spec.lengths[at] for at in chosen)),
            query=self.joined[chosen],
            table_BM=self.table_BM[chosen],
            length_B=self.length_B[chosen],
        )


def draw(spec: Spec, device: str) -> Problem:
    """Draw a problem. Values are FlashMLA's: queries within 1, latents a tenth of that."""
    rng = torch.Generator(device).manual_seed(spec.seed)
    total = sum(spec.lengths)
    kv_TD = torch.randn(total, WIDTH, generator=rng, device=device, dtype=torch.bfloat16)
    kv_TD = (kv_TD * K_SPREAD).clamp_(-1, 1)
    shape = (len(spec.lengths), spec.query_tokens, spec.heads, WIDTH)
    query = torch.randn(shape, generator=rng, device=device).clamp_(-1, 1)
    return lay_out(spec, kv_TD, query, rng)


def lay_out(spec: Spec, kv_TD: Tensor, query_BQHD: Tensor, rng: torch.Generator) -> Problem:
    """Put tokens into a poisoned cache.

    Args:
        kv_TD: bfloat16 latents and ropes of all sequences, one after another.
        query_BQHD: queries in any float dtype; they are rounded to `spec.query_dtype`.
    """
    device = kv_TD.device
    table_BM, num_blocks = _hand_out(spec, rng, device)
    cache = poisoned(spec, num_blocks, device)
    scale = None
    if spec.layout == CacheLayout.FP8:
        # No power of two, so that forgetting it, or multiplying twice, shows.
        largest = (
            kv_TD.float().abs().amax() if kv_TD.numel() else kv_TD.new_ones((), dtype=torch.float32)
        )
        scale = largest.view(1) / 300
    slot_T = _slots(spec, table_BM)
    latent_TC, rope_TR = kv_TD[:, :LATENT], kv_TD[:, LATENT:]
    mla_append_ref(latent_TC, rope_TR, cache, slot_T, layout=spec.layout, cache_scale=scale)
    length_B = torch.tensor(spec.lengths, dtype=torch.int32, device=device)
    query, query_scale = _round_query(query_BQHD, spec.query_dtype)
    return Problem(spec, query, cache, table_BM, length_B, query_scale, scale)


def poisoned(spec: Spec, num_blocks: int, device: torch.device) -> Tensor:
    """A cache of NaN, strided where the spec pads it."""
    width = {"bf16": WIDTH * 2, "fp8": WIDTH, "fp8_ds_mla": LATENT + 16 + ROPE * 2}[spec.layout]
    shape = (num_blocks, spec.block_size + spec.pad_block, width + spec.pad_token)
    raw = torch.full(shape, POISON, dtype=torch.uint8, device=device)
    dtypes = {CacheLayout.BF16: torch.bfloat16, CacheLayout.FP8: torch.float8_e4m3fn}
    dtype = dtypes.get(spec.layout, torch.uint8)
    return raw.view(dtype)[:, : spec.block_size, : width // dtype.itemsize]


def _hand_out(spec: Spec, rng: torch.Generator, device: torch.device) -> tuple[Tensor, int]:
    """A block table, and the number of blocks of its cache."""
    length_B = torch.tensor(spec.lengths, device=device)
    blocks_B = (length_B + spec.block_size - 1) // spec.block_size
    needed, most = int(blocks_B.sum()), int(blocks_B.max())
    num_blocks = spec.num_blocks or spec.first_block + needed + SPARE_BLOCKS
    width = spec.table_width or most + 2
    pool = torch.randperm(num_blocks - spec.first_block, generator=rng, device=device)
    table_BM = torch.full((len(spec.lengths), width), NOWHERE, dtype=torch.int32, device=device)
    taken_BM = torch.arange(width, device=device) < blocks_B[:, None]
    table_BM[taken_BM] = (pool[:needed] + spec.first_block).to(torch.int32)
    return table_BM, num_blocks


def _slots(spec: Spec, table_BM: Tensor) -> Tensor:
    """The slot of every token: block * block_size + offset."""
    length_B = torch.tensor(spec.lengths, device=table_BM.device)
    owner_T = torch.repeat_interleave(
        torch.arange(len(spec.lengths), device=length_B.device), length_B
    )
    start_B = length_B.cumsum(0) - length_B
    place_T = torch.arange(int(length_B.sum()), device=length_B.device) - start_B[owner_T]
    block_T = table_BM[owner_T, place_T // spec.block_size].long()
    return block_T * spec.block_size + place_T % spec.block_size


def _round_query(query: Tensor, dtype: str) -> tuple[Tensor, Tensor | None]:
    """Queries in their dtype, and the scale of FP8 ones."""
    if dtype == "bf16":
        return query.to(torch.bfloat16), None
    scale = query.float().abs().amax().view(1) / 300
    return (query.float() / scale).to(torch.float8_e4m3fn), scale


def realistic(spec: Spec, spread: float, device: str) -> tuple[Tensor, Tensor]:
    """Latents as a trained model caches them, and queries whose scores deviate by `spread`.

    Latents come out of an RMS norm: a part that all tokens share, topics, noise, and a few channels
    that are always large; ropes keep a larger scale. Returns (T, 576) bfloat16 and (B, Q, H, 576)
    float32.
    """
    rng = torch.Generator(device).manual_seed(spec.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, device=device)

    total = sum(spec.lengths)
    latent_TC = 0.5 * normal(LATENT) + 0.7 * normal(total, LATENT)
    latent_TC += 0.7 * normal(total, 32) @ normal(32, LATENT) / 32**0.5
    loud = torch.randperm(LATENT, generator=rng, device=device)[:4]
    latent_TC[:, loud] += torch.tensor([6.0, -8.0, 10.0, -12.0], device=device)
    norm_T = latent_TC.square().mean(-1, keepdim=True).sqrt()
    latent_TC = latent_TC / norm_T * (0.3 * normal(LATENT)).exp()
    kv_TD = torch.cat([latent_TC, 2 * normal(total, ROPE)], -1).to(torch.bfloat16)
    query = normal(len(spec.lengths), spec.query_tokens, spec.heads, WIDTH)
    some = kv_TD[: min(total, 4096)].float()
    deviation = (query @ some.T * spec.scale).std(-1, keepdim=True)
    return kv_TD, query * (spread / deviation)

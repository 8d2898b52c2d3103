"""The inputs that the timings rotate through: caches, block tables, lengths and queries.

Drawn on the GPU in pieces of at most 64 MB, so that a 40 GB cache needs no room beside it. Values
are normal, as in the anchors' own benchmarks: power, and with it the clock, depends on them.
Shapes: N blocks of K tokens, B sequences, M blocks of the longest, Q query tokens, H heads.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .points import BLOCK_SIZE, BYTES_PER_TOKEN, LATENT, WIDTH, Point

PIECE_BYTES = 64e6
SCALE = 192**-0.5
"""R1's softmax scale: 128 + 64 dimensions a head before the latent is absorbed."""


@dataclass(frozen=True, slots=True)
class Paged:
    """One set of caches: what all head counts and query tokens of a group share.

    Attributes:
        cache: (N, 64, 576) bfloat16 or float8_e4m3fn, or (N, 64, 656) uint8.
        table_BM: int32; every entry is a block of this cache.
        length_B: int32.
        longest: the greatest length.
    """

    cache: Tensor
    table_BM: Tensor
    length_B: Tensor
    longest: int


@dataclass(frozen=True, slots=True)
class Inputs:
    """What one call gets: a set of caches and its queries (B, Q, H, 576)."""

    paged: Paged
    query_BQHD: Tensor


def draw_paged(layout: str, lengths: list[int], device: str = "cuda") -> Paged:
    """One set of caches of a layout, its blocks in random order."""
    blocks = [math.ceil(length / BLOCK_SIZE) for length in lengths]
    place_N = torch.randperm(sum(blocks), dtype=torch.int32, device=device)
    table_BM = torch.zeros(len(lengths), max(blocks), dtype=torch.int32, device=device)
    seen_BM = (
        torch.arange(max(blocks), device=device) < torch.tensor(blocks, device=device)[:, None]
    )
    table_BM[seen_BM] = place_N
    length_B = torch.tensor(lengths, dtype=torch.int32, device=device)
    return Paged(draw_cache(layout, sum(blocks), device), table_BM, length_B, max(lengths))


def draw_cache(layout: str, num_blocks: int, device: str = "cuda") -> Tensor:
    """A cache of normal latents in `layout`; the four scales of the 656-byte one are 1."""
    if layout == "bf16":
        shape = (num_blocks, BLOCK_SIZE, WIDTH)
        return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_()
    width = BYTES_PER_TOKEN[layout]
    raw = torch.empty(num_blocks, BLOCK_SIZE, width, dtype=torch.uint8, device=device)
    step = max(1, int(PIECE_BYTES // (BLOCK_SIZE * WIDTH * 2)))
    for start in range(0, num_blocks, step):
        piece = raw[start : start + step]
        shape = (*piece.shape[:2], WIDTH)
        drawn = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_()
        if layout == "fp8":
            piece.copy_(drawn.to(torch.float8_e4m3fn).view(torch.uint8))
            continue
        piece[..., :LATENT] = drawn[..., :LATENT].to(torch.float8_e4m3fn).view(torch.uint8)
        piece.view(torch.float32)[..., LATENT // 4 : LATENT // 4 + 4] = 1.0
        piece.view(torch.bfloat16)[..., LATENT // 2 + 8 :] = drawn[..., LATENT:]
    return raw.view(torch.float8_e4m3fn) if layout == "fp8" else raw


def draw_query(point: Point, dtype: str, device: str = "cuda") -> Tensor:
    """The queries of one set, (B, Q, H, 576)."""
    shape = (point.batch, point.query_tokens, point.heads, WIDTH)
    drawn = torch.empty(shape, dtype=torch.bfloat16, device=device).normal_()
    return drawn.to(torch.float8_e4m3fn) if dtype == "fp8" else drawn

"""The static key-value cache of a lane, in pages, and where a step's tokens stand in it.

A sample's bits must depend on nothing but the sample. Attention therefore runs page by page, each
page's products at one fixed shape, and the pages' sums are added in page order. A page without
valid keys adds exactly zero, so it makes no difference how many pages a step looks at, and neither
the cache's length nor the other rows' positions can be felt.

Letters: R rows (slots), P pages allocated, N pages looked at, Z tokens per page, G key groups,
M queries per group, D key width, E value width, T tokens of a step, C tokens per prefill chunk,
U chunks per prefill step, L positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAGE = 32
"""Tokens per page; shorter pages waste less on the last one, longer ones need fewer products."""
CHUNK = 16
"""Tokens per prefill chunk; divides PAGE, so a chunk never crosses a page."""
CHUNKS = 8
"""Chunks per prefill step, of any rows in any mix; a short step repeats one of its chunks."""


@dataclass(frozen=True, slots=True)
class Heads:
    """How a model's heads lie in the cache.

    Attributes:
        groups: G, key groups with products of their own.
        queries: M, queries per group and token.
        key_width: D, floats per key.
        value_width: E, floats per value.
        value_at: None: values have a tensor of their own; else they are the keys' columns from
            here on (the absorbed latent).
    """

    groups: int
    queries: int
    key_width: int
    value_width: int
    value_at: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Where the tokens of one forward pass stand.

    Attributes:
        positions_T: int64 position of every token.
        write_at: int64 (T * G), flat cache rows that the tokens' keys and values go to.
        rows_U: int64 cache rows to attend over, one per chunk; None: all rows, one token each.
        num_pages: N.
        mask: float (N * units * G, 1 or M * C, Z), 0 where a key may be seen and -inf elsewhere.
    """

    positions_T: Tensor
    write_at: Tensor
    rows_U: Tensor | None
    num_pages: int
    mask: Tensor

    @property
    def chunk(self) -> int:
        """Tokens per unit: one when decoding."""
        return 1 if self.rows_U is None else CHUNK


class Cache:
    """Keys and values of `rows` sequences in every layer; grows by pages, never shrinks."""

    def __init__(
        self, num_layers: int, heads: Heads, rows: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.heads, self.rows, self.num_pages = heads, rows, 0
        self.dtype, self.device = dtype, device
        self.keys: list[Tensor] = [self._pages(0, heads.key_width) for _ in range(num_layers)]
        self.values: list[Tensor] = [self._pages(0, heads.value_width) for _ in range(num_layers)]
        self.scratch: dict[int, Tensor] = {}
        groups = torch.arange(heads.groups, device=device)
        self.row_group_RG = torch.arange(rows, device=device)[:, None] * heads.groups + groups

    def _pages(self, num_pages: int, width: int) -> Tensor:
        shape = (num_pages, self.rows, self.heads.groups, PAGE, width)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def reserve(self, length: int) -> None:
        """Have room for `length` positions per row."""
        wanted = -(-length // PAGE)
        if wanted <= self.num_pages:
            return
        wanted = max(wanted, self.num_pages * 3 // 2)
        for layer in range(len(self.keys)):
            for tensors, width in (
                (self.keys, self.heads.key_width),
                (self.values, self.heads.value_width),
            ):
                if tensors is self.values and self.heads.value_at is not None:
                    continue
                grown = self._pages(wanted, width)
                grown[: self.num_pages] = tensors[layer]
                tensors[layer] = grown
        self.num_pages = wanted

    def clear_row(self, row: int) -> None:
        """Zero a row, so that what a broken sequence left cannot reach its successor."""
        for pages in (*self.keys, *self.values):
            pages[:, row] = 0

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one row to another."""
        used = -(-length // PAGE)
        for pages in (*self.keys, *self.values):
            pages[:used, target] = pages[:used, source]

    def write(self, layer: int, step: Step, keys: Tensor, values: Tensor | None) -> None:
        """Store a step's keys (T * G, D) and values (T * G, E)."""
        self.keys[layer].view(-1, self.heads.key_width).index_copy_(0, step.write_at, keys)
        if values is not None:
            flat = self.values[layer].view(-1, self.heads.value_width)
            flat.index_copy_(0, step.write_at, values)

    def scratch_queries(self, num_tokens: int) -> Tensor:
        """A buffer (T, heads, D), zero but for the blocks that every layer overwrites."""
        if num_tokens not in self.scratch:
            shape = (num_tokens, self.heads.queries, self.heads.key_width)
            self.scratch[num_tokens] = torch.zeros(shape, dtype=self.dtype, device=self.device)
        return self.scratch[num_tokens]

    def attend(self, layer: int, step: Step, queries: Tensor) -> Tensor:
        """Softmax attention over the cache; the scale is already in the queries.

        Args:
            queries: (units * G, M, D), where a unit is a row, or a chunk with M = C * queries.

        Returns:
            (units * G, M, E)
        """
        num, heads = step.num_pages, self.heads
        keys = self.keys[layer][:num]
        if step.rows_U is not None:
            keys = keys.index_select(1, step.rows_U)
        if heads.value_at is None:
            values = self.values[layer][:num]
            if step.rows_U is not None:
                values = values.index_select(1, step.rows_U)
        else:
            values = keys[..., heads.value_at : heads.value_at + heads.value_width]
        units, many, width = queries.shape
        repeated = queries.expand(num, units, many, width).reshape(num * units, many, width)
        by_page = keys.view(num * units, PAGE, heads.key_width).transpose(1, 2)
        weights = torch.baddbmm(step.mask, repeated, by_page).view(num, units, many, PAGE)
        weights.sub_(weights.amax((0, 3), keepdim=True)).exp_()
        totals = weights.sum(-1)
        sums = torch.bmm(
            weights.view(num * units, many, PAGE),
            values.view(num * units, PAGE, heads.value_width),
        ).view(num, units, many, heads.value_width)
        out, total = sums[0], totals[0]
        for page in range(1, num):
            out.add_(sums[page])
            total.add_(totals[page])
        return out.div_(total[..., None])

    def decode_step(self, positions_R: Tensor, length: int) -> Step:
        """One token in every row; `length` bounds the positions that matter."""
        num = -(-length // PAGE)
        write_at = self._flat(positions_R, self.row_group_RG)
        last_seen = positions_R[None] - self._page_starts(num)
        return Step(positions_R, write_at, None, num, self._mask(last_seen[..., None, None]))

    def prefill_step(self, rows: Sequence[int], starts: Sequence[int]) -> Step:
        """C tokens from each start position, in U rows (repetitions allowed)."""
        device = self.row_group_RG.device
        rows_U = torch.tensor(rows, device=device)
        starts_U = torch.tensor(starts, device=device)
        positions_UC = starts_U[:, None] + torch.arange(CHUNK, device=device)
        positions_T = positions_UC.flatten()
        row_group_TG = self.row_group_RG[rows_U].repeat_interleave(CHUNK, dim=0)
        num = -(-(max(starts) + CHUNK) // PAGE)
        last_seen = positions_UC[None] - self._page_starts(num)[..., None]
        last_seen = last_seen[..., None].expand(-1, -1, -1, self.heads.queries).flatten(2)
        return Step(
            positions_T,
            self._flat(positions_T, row_group_TG),
            rows_U,
            num,
            self._mask(last_seen[:, :, None]),
        )

    def _page_starts(self, num: int) -> Tensor:
        return torch.arange(0, num * PAGE, PAGE, device=self.row_group_RG.device)[:, None]

    def _flat(self, positions_T: Tensor, row_group_TG: Tensor) -> Tensor:
        """Flat cache rows of (P, R, G, Z) from positions and row * G + group."""
        page_T = positions_T.div(PAGE, rounding_mode="floor")
        per_page = self.rows * self.heads.groups
        flat_TG = (page_T[:, None] * per_page + row_group_TG) * PAGE + (positions_T % PAGE)[:, None]
        return flat_TG.flatten()

    def _mask(self, last_seen: Tensor) -> Tensor:
        """Additive mask from the last key seen, (N, units, 1, M or 1): relative to each page."""
        offsets_Z = torch.arange(PAGE, device=last_seen.device)
        if last_seen.ndim == 4 and last_seen.shape[2] == 1:
            last_seen = last_seen.expand(-1, -1, self.heads.groups, -1)
        hidden = offsets_Z > last_seen[..., None]
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(hidden, float("-inf"))
        return mask.flatten(0, 2)

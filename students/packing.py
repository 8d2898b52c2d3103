"""Laying examples out for a forward pass: padded rows of similar length, or packed rows.

Padded rows are padded on the right and need no mask: causal attention never looks ahead, so no real
token sees the padding. Packed rows hold several examples each; their positions restart at zero,
from which transformers builds a block-diagonal mask, but only where it is given no attention mask
and no cache. Either way every position carries its target, the token that follows it in its own
example, so no loss ever crosses from one example into the next.

Shapes: R rows, L tokens per row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .examples import Example

IGNORE = -100
"""The target of a position that is not trained."""


@dataclass(frozen=True, slots=True)
class Pack:
    """What one forward pass reads.

    Attributes:
        input_ids: int64, R x L.
        position_ids: int64, R x L, restarting with each example; None for padded rows.
        targets: int64, R x L, the token to predict after each position, or `IGNORE`.
        num_tokens: real ones, padding excluded.
        num_trained: targets that the loss counts.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    targets: Tensor
    num_tokens: int
    num_trained: int

    @property
    def fill(self) -> float:
        """Share of positions that hold a real token."""
        return self.num_tokens / self.input_ids.numel()

    def to(self, device: torch.device) -> "Pack":
        """The same pass with its tensors on a device."""
        positions = None if self.position_ids is None else self.position_ids.to(device)
        return Pack(
            self.input_ids.to(device),
            positions,
            self.targets.to(device),
            self.num_tokens,
            self.num_trained,
        )


def first_fit_decreasing(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Put items into as few bins of `room` as the rule finds; items are named by index.

    The longest goes first, each into the first bin that has room for it. At most 11/9 of the best
    possible number of bins, plus 6/9 (Dosa 2007). Ties keep their order.

    Raises:
        ValueError: an item is longer than `room`.
    """
    bins: list[list[int]] = []
    left: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[item]
        if length > room:
            raise ValueError(f"item {item} of length {length} does not fit into {room}")
        at = next((b for b, free in enumerate(left) if free >= length), None)
        if at is None:
            bins.append([])
            left.append(room)
            at = len(bins) - 1
        bins[at].append(item)
        left[at] -= length
    return bins


def lay_out(
    examples: Sequence[Example],
    *,
    packing: bool,
    row_length: int,
    tokens_per_pass: int,
    pad_id: int,
) -> list[Pack]:
    """Spread a batch over as many passes as it needs; every example stands in exactly one.

    Args:
        packing: rows of up to `row_length` with several examples, else one example per row.
        tokens_per_pass: R * L of a pass stays within it, unless a single row is longer.
    """
    if packing:
        lengths = [len(example) for example in examples]
        rows = [[examples[i] for i in row] for row in first_fit_decreasing(lengths, row_length)]
    else:
        rows = [[example] for example in examples]
    rows.sort(key=lambda row: -sum(map(len, row)))
    passes: list[list[list[Example]]] = []
    for row in rows:  # the longest row of a pass comes first and sets its width
        width = sum(map(len, passes[-1][0])) if passes else 0
        if not passes or width * (len(passes[-1]) + 1) > tokens_per_pass:
            passes.append([])
        passes[-1].append(row)
    return [_pack(rows, packing, pad_id) for rows in passes]


def _pack(rows: Sequence[Sequence[Example]], packing: bool, pad_id: int) -> Pack:
    """Write rows into tensors. In a packed row the padding is an example of its own."""
    width = max(sum(map(len, row)) for row in rows)
    ids = torch.full((len(rows), width), pad_id)
    targets = torch.full((len(rows), width), IGNORE)
    positions = torch.zeros((len(rows), width), dtype=torch.int64)
    for r, row in enumerate(rows):
        start = 0
        for example in row:
            end = start + len(example)
            ids[r, start:end] = torch.tensor(example.input_ids)
            mask = torch.tensor(example.loss_mask)
            targets[r, start : end - 1] = ids[r, start + 1 : end].where(mask[1:], IGNORE)
            positions[r, start:end] = torch.arange(len(example))
            start = end
        positions[r, start:] = torch.arange(width - start)
    examples = [example for row in rows for example in row]
    return Pack(
        ids,
        positions if packing else None,
        targets,
        sum(map(len, examples)),
        sum(example.num_trained for example in examples),
    )

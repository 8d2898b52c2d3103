"""Any other causal model: transformers' own forward pass, one row at a time.

Plain and slow, and trivially independent of batch mates: every row is computed alone, with a cache
of its own that transformers chooses for the architecture.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .model import Chunk


class TransformersDecoder:
    """A transformers model as a decoder. Shares the model with other lanes, which only read it."""

    chunk = 1 << 40
    chunks = 1
    can_copy = False

    def __init__(self, model: Any, rows: int) -> None:
        self.model, self.rows = model, rows
        self.caches: list[Any] = [None] * rows
        takes = inspect.signature(model.forward).parameters
        self.cache_name = "cache" if "cache" in takes else "past_key_values"
        """transformers renames the argument; under the wrong name a cache would not be read."""

    def reserve(self, length: int) -> None:
        """Nothing to do: these caches grow as they are written."""

    def prefill(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            ids = torch.tensor([chunk.tokens], device=self.model.device)
            self.caches[chunk.row] = self._forward(ids, None).past_key_values

    def copy_row(self, source: int, target: int, length: int) -> None:
        raise NotImplementedError("can_copy is False")

    def clear_row(self, row: int) -> None:
        self.caches[row] = None

    def decode(
        self, tokens_R: Tensor, positions_R: Tensor, active: Sequence[int], length: int
    ) -> Tensor:
        logits: list[Tensor | None] = [None] * self.rows
        for row in active:
            output = self._forward(tokens_R[row].view(1, 1), self.caches[row])
            self.caches[row] = output.past_key_values
            logits[row] = output.logits[0, -1].float()
        blank = torch.zeros_like(logits[active[0]])  # type: ignore[arg-type]
        return torch.stack([blank if row is None else row for row in logits])

    def _forward(self, ids: Tensor, cache: Any) -> Any:
        return self.model(input_ids=ids, use_cache=True, **{self.cache_name: cache})

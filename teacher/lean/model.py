"""What a lane asks of a model, and what the lean models share.

Letters: T tokens, H hidden width, V vocabulary, R rows, L positions, F rotary frequencies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .cache import CHUNK, CHUNKS, Cache, Step

ROW_TILE = 4
COLUMN_TILE = 4
"""Products are computed in tiles. What fills none is computed differently, and rows of an odd width
start at different places of a tile: either way a row's bits would depend on which row it is."""


class NotLean(Exception):
    """The lean loop does not know this model; the message says what stands in the way."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a prompt that is to be read into a row."""

    row: int
    start: int
    tokens: list[int]
    is_last: bool


class Decoder(Protocol):
    """A model together with the state of `rows` sequences.

    A row's results depend on its own tokens alone, bit for bit: not on the other rows, nor on when
    they were filled.
    """

    rows: int
    chunk: int
    """The longest chunk that `prefill` takes."""
    chunks: int
    """Chunks that one `prefill` has room for; fewer take as long."""
    can_copy: bool
    """Whether `copy_row` works."""

    def reserve(self, length: int) -> None:
        """Have room for `length` positions per row."""
        ...

    def prefill(self, chunks: Sequence[Chunk]) -> None:
        """Read pieces of prompts; those of one row come in order."""
        ...

    def copy_row(self, source: int, target: int, length: int) -> None:
        """Give a row the state that another had after its first `length` tokens."""
        ...

    def clear_row(self, row: int) -> None:
        """Forget a row that was given up, and whatever bad numbers it holds."""
        ...

    def decode(
        self, tokens_R: Tensor, positions_R: Tensor, active: Sequence[int], length: int
    ) -> Tensor:
        """Read one token in every active row, at its position.

        Args:
            active: the rows that matter.
            length: one more than the last position of an active row.

        Returns:
            (R, V) logits; what the other rows hold means nothing.
        """
        ...


class LeanModel:
    """The weights of a lean model. Shared by lanes; everything that changes is in their caches.

    Args:
        model: the transformers model; it is only read, and can be dropped afterwards.
        dtype: of the folded weights and of all arithmetic (float32, or float64 to check it).
        length: positions that will be needed.

    Attributes:
        turns_LF: complex; the rotation of every frequency at every position.
    """

    def __init__(self, model: Any, *, dtype: torch.dtype, length: int) -> None:
        config, inner = model.config, model.model
        if config.hidden_act != "silu":
            raise NotLean(f"activation {config.hidden_act}")
        self.dtype, self.eps = dtype, float(config.rms_norm_eps)
        whole_chunks = -(-length // CHUNK) * CHUNK  # the last chunk's padding has positions, too
        turns_LF, self.turn_scale = rotary_table(inner.rotary_emb, whole_chunks)
        wide = torch.complex128 if dtype == torch.float64 else torch.complex64
        self.embedding_VH = stored(inner.embed_tokens.weight.detach(), dtype)
        self.turns_LF = turns_LF.to(self.embedding_VH.device, wide)
        head_HV = folded(model.lm_head, inner.norm.weight)
        self.head_HV = stored(F.pad(head_HV, (0, -head_HV.shape[1] % COLUMN_TILE)), dtype)

    def new_cache(self, rows: int) -> Cache:
        """An empty cache for `rows` sequences."""
        raise NotImplementedError

    def hidden(self, cache: Cache, step: Step, tokens_T: Tensor) -> Tensor | None:
        """Write the step's keys and values; the last layer's output (T, H) if decoding."""
        raise NotImplementedError


class LeanDecoder:
    """A lean model at work on a cache of its own.

    Two shapes only: R tokens (decode) and CHUNKS x CHUNK tokens (prefill), so that every product
    over a row's numbers is always computed in the same way. Rows that do not fill up a tile of
    `ROW_TILE` would be added up in another order than those that do, so there are none: R is
    rounded up.
    """

    chunk, chunks, can_copy = CHUNK, CHUNKS, True

    def __init__(self, model: LeanModel, rows: int) -> None:
        self.model = model
        self.rows = rows if rows == 1 else -(-rows // ROW_TILE) * ROW_TILE
        self.cache = model.new_cache(self.rows)

    def reserve(self, length: int) -> None:
        self.cache.reserve(length)

    def prefill(self, chunks: Sequence[Chunk]) -> None:
        part = list(chunks) + [chunks[-1]] * (CHUNKS - len(chunks))
        step = self.cache.prefill_step([c.row for c in part], [c.start for c in part])
        # What the padding writes is overwritten before it can be seen.
        ids = [t for c in part for t in c.tokens + c.tokens[-1:] * (CHUNK - len(c.tokens))]
        self.model.hidden(
            self.cache, step, torch.tensor(ids, device=self.model.embedding_VH.device)
        )

    def copy_row(self, source: int, target: int, length: int) -> None:
        self.cache.copy_row(source, target, length)

    def clear_row(self, row: int) -> None:
        self.cache.clear_row(row)

    def decode(
        self, tokens_R: Tensor, positions_R: Tensor, active: Sequence[int], length: int
    ) -> Tensor:
        step = self.cache.decode_step(positions_R, length)
        hidden_RH = self.model.hidden(self.cache, step, tokens_R)
        assert hidden_RH is not None
        logits_RV = norm(hidden_RH, self.model.eps) @ self.model.head_HV
        return logits_RV[:, : len(self.model.embedding_VH)]


def norm(x: Tensor, eps: float) -> Tensor:
    """RMS norm over the last dimension; its weight is folded into the product that follows."""
    return F.rms_norm(x, x.shape[-1:], None, eps)


def folded(linear: Any, scale_in: Tensor | None = None) -> Tensor:
    """A linear layer's weight as a double (in, out), the preceding norm's weight folded in."""
    weight: Tensor = linear.weight.detach().double()
    return (weight if scale_in is None else weight * scale_in.detach().double()).t()


def stored(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight as the products want it: contiguous, (in, out), which MKL reads 15 % faster.

    Raises:
        NotLean: its rows do not begin at whole tiles; a product's rows would then be computed in
            different ways.
    """
    if weight.ndim > 1 and weight.shape[-1] % COLUMN_TILE:
        raise NotLean(f"a product {weight.shape[-1]} wide, not a multiple of {COLUMN_TILE}")
    return weight.to(dtype).contiguous()


def rotary_table(rotary: Any, length: int) -> tuple[Tensor, float]:
    """The rotations exp(i * position * frequency), complex64 (L, F), and the scale on cos and sin.

    Raises:
        NotLean: the frequencies change with the length of the text.
    """
    kind = rotary.rope_type
    if "dynamic" in kind or kind == "longrope":
        raise NotLean(f"rotary embedding of type {kind}")
    angles_LF = torch.arange(length)[:, None].float() * rotary.inv_freq.detach().cpu().float()
    turns_LF = torch.complex(angles_LF.cos(), angles_LF.sin())  # bit for bit transformers' own
    return turns_LF, float(rotary.attention_scaling)


def interleave_halves(weight: Tensor, width: int) -> Tensor:
    """Reorder the last `width` columns of (..., width) from (x1 half, x2 half) to pairs."""
    pairs = torch.arange(width).view(2, width // 2).t().flatten()
    return weight[..., pairs]


def turn(x_TXR: Tensor, turns_T1F: Tensor) -> None:
    """Rotate pairs of neighbours in place: (T, X, 2 * F) by (T, 1, F)."""
    torch.view_as_complex(x_TXR.unflatten(-1, (-1, 2))).mul_(turns_T1F)

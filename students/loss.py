"""The loss of one forward pass: next-token cross-entropy over the trained tokens.

The sum is divided by the trained tokens of the whole batch, not of the pass: every token weighs the
same, however a batch is packed, padded or accumulated. The head only sees positions that are
trained, so prompts cost no logits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from .packing import IGNORE, Pack

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def trained_logits(model: "PreTrainedModel", pack: Pack) -> Tensor:
    """The logits at the trained positions, in row order: N x vocabulary, in the type computed in.

    No attention mask is passed, and no cache is made: with either, transformers 5 lets the examples
    of a packed row see each other without a word.
    """
    inputs = {"input_ids": pack.input_ids}
    if pack.position_ids is not None:
        inputs["position_ids"] = pack.position_ids
    index = (pack.targets.flatten() != IGNORE).nonzero().squeeze(1)
    with _head_sees(model, index):
        logits = model(**inputs, use_cache=False).logits
    assert isinstance(logits, Tensor) and logits.ndim == 2
    return logits


def summed_loss(model: "PreTrainedModel", pack: Pack) -> Tensor:
    """The cross-entropy summed over a pass's trained tokens, in float32."""
    logits = trained_logits(model, pack).float()
    targets = pack.targets.flatten()
    return F.cross_entropy(logits, targets[targets != IGNORE], reduction="sum")


@contextmanager
def _head_sees(model: "PreTrainedModel", index: Tensor) -> Iterator[None]:
    """Let the output head work on the rows `index` of its flattened input only."""
    head = model.get_output_embeddings()
    assert head is not None, "a causal language model has an output head"

    def select(_: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].flatten(0, 1).index_select(0, index),)

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()

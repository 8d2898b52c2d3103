"""How likely a model finds a given text, token by token: what log-likelihood benchmarks ask for.

The text is read the way a reply is written: the context in chunks, then one decode step per token
of the continuation, so the numbers come from the very code that samples.

Convention: that of lm-evaluation-harness (`lm_eval.models.huggingface`). Blanks at the end of the
context belong to the continuation; context and continuation are tokenized as one text and cut
behind the context's own tokens; a first token without context follows the tokenizer's token for the
beginning of a text. What does not fit is cut off on the left.
"""

from dataclasses import dataclass

import torch

from .model import Chunk, Decoder
from .text import Text


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely a continuation is.

    Attributes:
        log_probability: natural logarithm, summed over the continuation's tokens; 0 for no token.
        is_greedy: whether greedy decoding would write exactly this continuation.
        cut: tokens of the context that did not fit and were left out, from the left.
    """

    log_probability: float
    is_greedy: bool
    cut: int = 0


class Likelihood:
    """Scores texts, one at a time, in one row of its own; for one thread.

    Args:
        decoder: its first row is used, and nobody else's.
        text: the model's tokenizer.
        max_length: positions that the model has.
        end_id: stands in where the tokenizer has no token for the beginning of a text.
        device: where the decoder computes.
    """

    def __init__(
        self, decoder: Decoder, text: Text, *, max_length: int, end_id: int, device: str
    ) -> None:
        self._decoder, self._text = decoder, text
        self._max_length, self._device = max_length, device
        begin = text.tokenizer.bos_token_id
        self._begin = end_id if begin is None else int(begin)
        self._read: list[int] = []
        """The context that the row holds, where a row can be gone on from again."""

    def continuation(self, context: str, continuation: str) -> Scored:
        """The likelihood of a text that follows another one; either may be empty."""
        context_ids, ids = self._split(context, continuation)
        room = self._max_length + 1 - min(len(ids), self._max_length)
        return Scored(*self._windows(context_ids, ids), cut=max(0, len(context_ids) - room))

    def text(self, text: str) -> float:
        """The log-probability of a whole text; every token sees as much in front as has room."""
        return self._windows([self._begin], self._encode(text, special=False))[0]

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        if not stripped:
            return [self._begin], self._encode(continuation, special=False)
        context_ids = self._encode(stripped, special=True)
        return context_ids, self._encode(stripped + continuation, special=True)[len(context_ids) :]

    def _encode(self, text: str, *, special: bool) -> list[int]:
        """Token ids; with `special`, what the tokenizer puts in front of every text is there."""
        return list(self._text.tokenizer(text, add_special_tokens=special).input_ids)

    def _windows(self, context: list[int], ids: list[int]) -> tuple[float, bool]:
        """Score tokens of any number: at most `max_length` are predicted at a time."""
        total, is_greedy = 0.0, True
        with torch.inference_mode():
            for start in range(0, len(ids), self._max_length):
                part = ids[start : start + self._max_length]
                before = [*context, *ids[:start]][-(self._max_length + 1 - len(part)) :]
                log_probability, greedy = self._score(before, part)
                total, is_greedy = total + log_probability, is_greedy and greedy
        return total, is_greedy

    def _score(self, context: list[int], ids: list[int]) -> tuple[float, bool]:
        """Score tokens that follow at least one other and fit with it."""
        total, is_greedy = 0.0, True
        self._prefill(context[:-1])
        for place, (token, target) in enumerate(
            zip([context[-1], *ids[:-1]], ids, strict=True), start=len(context) - 1
        ):
            logits_V = self._step(token, place)
            total += float(torch.log_softmax(logits_V.double(), dim=-1)[target])
            is_greedy = is_greedy and int(logits_V.argmax()) == target
        return total, is_greedy

    def _prefill(self, tokens: list[int]) -> None:
        """Have the row hold these tokens; choices of one question share them."""
        if self._decoder.can_copy and tokens and tokens == self._read:
            return  # what was decoded behind them is overwritten before it can be seen
        self._read = tokens
        if not tokens:
            self._decoder.clear_row(0)
            return
        self._decoder.reserve(len(tokens))
        size = self._decoder.chunk
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            self._decoder.prefill([Chunk(0, start, part, start + size >= len(tokens))])

    def _step(self, token: int, position: int) -> torch.Tensor:
        """Read one token at a position; the logits (V) of what follows it."""
        rows = self._decoder.rows
        tokens_R = torch.full((rows,), token, device=self._device)
        positions_R = torch.full((rows,), position, device=self._device)
        self._decoder.reserve(position + 1)
        return self._decoder.decode(tokens_R, positions_R, [0], position + 1)[0]

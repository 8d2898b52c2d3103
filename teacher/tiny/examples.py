"""Training examples of the tiny models: worked problems as token ids with a loss mask.

Letters: N examples, S tokens of the longest one.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..engine import THINK_CLOSE, THINK_OPEN
from .families import FAMILIES, TinyProblem, draw, solution
from .tokenizer import ASSISTANT, BEGIN, END, USER

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

NO_THINKING = f"{THINK_OPEN}\n\n{THINK_CLOSE}\n"
"""The prefill that forces an answer without thinking."""
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Examples:
    """A pool of examples, padded on the right.

    Attributes:
        ids_NS: int16 token ids.
        labels_NS: int16, the token itself where it is trained on, `IGNORED` elsewhere.
        num_tokens: real tokens in the pool.
    """

    ids_NS: "Tensor"
    labels_NS: "Tensor"
    num_tokens: int


def render(problem: TinyProblem, *, direct: bool) -> tuple[str, str]:
    """A problem as (given, trained) text: with its thinking, or answered at once."""
    given = f"{BEGIN}{USER}{problem.statement}{ASSISTANT}"
    if direct:
        return given + NO_THINKING, f"\\boxed{{{problem.answer}}}{END}"
    return given, solution(problem) + END


def draw_texts(count: int, seed: int, direct_share: float) -> Iterator[tuple[str, str]]:
    """Training texts of all families in turn; `direct_share` of them answer without thinking."""
    rng = random.Random(f"examples/{seed}")
    names = list(FAMILIES)
    for index in range(count):
        problem = draw(names[index % len(names)], rng, "train")
        yield render(problem, direct=rng.random() < direct_share)


def make_examples(
    texts: Sequence[tuple[str, str]], tokenizer: "PreTrainedTokenizerFast"
) -> Examples:
    """Tokenize (given, trained) texts and pad them to one width, a multiple of 8."""
    import torch

    pairs = [
        tokenizer([text for text, _ in texts], add_special_tokens=False).input_ids,
        tokenizer([text for _, text in texts], add_special_tokens=False).input_ids,
    ]
    longest = max(len(given) + len(trained) for given, trained in zip(*pairs, strict=True))
    width = -(-longest // 8) * 8
    ids_NS = torch.full((len(texts), width), tokenizer.pad_token_id, dtype=torch.int16)
    labels_NS = torch.full((len(texts), width), IGNORED, dtype=torch.int16)
    num_tokens = 0
    for row, (given, trained) in enumerate(zip(*pairs, strict=True)):
        whole = torch.tensor([*given, *trained], dtype=torch.int16)
        ids_NS[row, : len(whole)] = whole
        labels_NS[row, len(given) : len(whole)] = whole[len(given) :]
        num_tokens += len(whole)
    return Examples(ids_NS, labels_NS, num_tokens)

"""From conversations to token ids with a loss mask.

The prompt is rendered by the model's own chat template up to where the reply begins, the reply is
tokenised by itself, and the two are joined. Nothing is tokenised twice, so the boundary of the mask
is exact, and whatever a template would do to a finished reply (DeepSeek's and Qwen3's drop its
thinking) cannot touch what is trained. Where the template would have written something else, that
is counted. The token that ends a turn is always trained: a student that never saw it never stops.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from .. import KitError
from ..teacher.engine import THINK_CLOSE, THINK_OPEN, Message
from .rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "r1kit-probe"
"""Stands for a reply while a template is being looked at."""


class ExamplesError(KitError):
    """Nothing can be trained on. The message counts the reasons."""


class Note(StrEnum):
    """What happened to an example on its way. `LEFT_OUT` are the ones that leave it out."""

    TOO_LONG = "too_long"
    PROMPT_FILLS_ALL = "prompt_fills_all"
    EMPTY_REPLY = "empty_reply"
    TRUNCATED = "truncated"
    TEMPLATE_DIFFERS = "template_differs"
    THINKING_OPENED_BY_TEMPLATE = "thinking_opened_by_template"


LEFT_OUT = (Note.TOO_LONG, Note.PROMPT_FILLS_ALL, Note.EMPTY_REPLY)


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and which of them are trained. Both have the same length; the first is never."""

    input_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    id: str = ""

    def __post_init__(self) -> None:
        if len(self.input_ids) != len(self.loss_mask):
            raise ValueError(
                f"{self.id}: {len(self.input_ids)} ids but {len(self.loss_mask)} mask values"
            )
        if not any(self.loss_mask) or self.loss_mask[0]:
            raise ValueError(f"{self.id}: some token must be trained, and never the first")

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_trained(self) -> int:
        """Tokens that the loss counts."""
        return sum(self.loss_mask)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The examples of a data set, how often each `Note` was made, and one instance of each.

    `end_id` is the token that ends every reply.
    """

    examples: tuple[Example, ...]
    end_id: int
    notes: dict[Note, int]
    instances: dict[Note, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplyFormat:
    """How a template closes a reply: the text after it, and the token at which a reader stops."""

    after: str
    end_id: int

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "ReplyFormat":
        """Look at what the template writes after a reply.

        Raises:
            ExamplesError: the template fails on a plain question and answer, or nothing ends it.
        """
        ask = [Message("user", PROBE)]
        whole = _render(tokenizer, [*ask, Message("assistant", PROBE)], reply_begins=False)
        after = whole.rpartition(PROBE)[2]
        special = {tokenizer.eos_token_id, *tokenizer.all_special_ids}
        ids: list[int] = tokenizer.encode(after, add_special_tokens=False) if after else []
        end = next((i for i in ids if i in special), tokenizer.eos_token_id)
        if not isinstance(end, int):
            raise ExamplesError(
                "the tokenizer has no token that ends a reply: its template closes one with"
                f" {after!r}, and eos_token is not set"
            )
        return cls(after, end)


def make_example(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    reply: str,
    *,
    format: ReplyFormat | None = None,
    id: str = "",
) -> Example:
    """One example: the prompt masked, the reply and the token that ends it trained.

    Args:
        messages: the turns before the reply.
        reply: the whole reply, its thinking included. Where the template itself opens the thinking,
            that opening belongs to the prompt and is not repeated.
        format: `ReplyFormat.of(tokenizer)`, computed where it is not given.
    """
    prompt = _render(tokenizer, messages, reply_begins=True)
    return _join(tokenizer, prompt, reply, format or ReplyFormat.of(tokenizer), id)


def prepare(
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Row],
    *,
    max_length: int,
    too_long: Literal["drop", "truncate"] = "drop",
) -> Prepared:
    """Turn rows into examples, and count all that is not plain.

    Raises:
        ExamplesError: no example is left.
    """
    format = ReplyFormat.of(tokenizer)
    notes: Counter[Note] = Counter()
    instances: dict[Note, str] = {}
    examples: list[Example] = []
    for row in rows:
        made, said = _prepare_one(tokenizer, row, format, max_length, too_long)
        for note in said:
            notes[note] += 1
            instances.setdefault(note, row.id)
        if made is not None:
            examples.append(made)
    if not examples:
        counts = ", ".join(f"{notes[note]} {note}" for note in LEFT_OUT if notes[note])
        raise ExamplesError(
            f"none of {len(rows)} examples can be trained on: {counts} (max_length is {max_length})"
        )
    return Prepared(tuple(examples), format.end_id, dict(notes), instances)


def _prepare_one(
    tokenizer: "PreTrainedTokenizerBase",
    row: Row,
    format: ReplyFormat,
    max_length: int,
    too_long: Literal["drop", "truncate"],
) -> tuple[Example | None, list[Note]]:
    """One row's example, or None where it is left out, and what is to be said about it."""
    if not row.reply.strip():
        return None, [Note.EMPTY_REPLY]
    said: list[Note] = []
    prompt = _render(tokenizer, row.prompt, reply_begins=True)
    if opening_of(prompt):
        said.append(Note.THINKING_OPENED_BY_TEMPLATE)
    turns = [*row.prompt, Message("assistant", row.reply)]
    whole = _render(tokenizer, turns, reply_begins=False)
    if whole != prompt + _without(opening_of(prompt), row.reply) + format.after:
        said.append(Note.TEMPLATE_DIFFERS)
    example = _join(tokenizer, prompt, row.reply, format, row.id)
    if len(example) <= max_length:
        return example, said
    if too_long == "drop":
        return None, [*said, Note.TOO_LONG]
    ids, mask = example.input_ids[:max_length], example.loss_mask[:max_length]
    if not any(mask):
        return None, [*said, Note.PROMPT_FILLS_ALL]
    return Example(ids, mask, row.id), [*said, Note.TRUNCATED]


def opening_of(prompt: str) -> str:
    """The `<think>` with which a rendered prompt ends, the blanks after it included; else empty."""
    at = prompt.rfind(THINK_OPEN)
    tail = prompt[at:] if at >= 0 else ""
    return tail if tail.strip() == THINK_OPEN else ""


def _without(opening: str, reply: str) -> str:
    """The reply less the opening of its thinking, where the prompt has written that already."""
    if not opening or THINK_CLOSE not in reply or not reply.lstrip().startswith(THINK_OPEN):
        return reply
    return reply.lstrip().removeprefix(THINK_OPEN).removeprefix(opening.removeprefix(THINK_OPEN))


def _join(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, reply: str, format: ReplyFormat, id: str
) -> Example:
    """Tokenise prompt and reply each by itself, and put the end behind them."""
    shown: list[int] = tokenizer.encode(prompt, add_special_tokens=False)
    trained: list[int] = tokenizer.encode(
        _without(opening_of(prompt), reply), add_special_tokens=False
    )
    ids = (*shown, *trained, format.end_id)
    return Example(ids, (False,) * len(shown) + (True,) * (len(trained) + 1), id)


def _render(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], *, reply_begins: bool
) -> str:
    """What the chat template writes, as text."""
    from jinja2 import TemplateError

    turns: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in messages]
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=reply_begins
        )
    except TemplateError as error:
        roles = ", ".join(message.role for message in messages)
        raise ExamplesError(f"the chat template refuses turns of {roles}: {error}") from error
    assert isinstance(text, str)
    return text

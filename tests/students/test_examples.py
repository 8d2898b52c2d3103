"""From conversations to masks: the boundary is exact, the end is trained, nothing goes silently."""

from collections.abc import Callable
from typing import Any

import pytest
from r1kit.students.examples import (
    Example,
    ExamplesError,
    Note,
    ReplyFormat,
    make_example,
    prepare,
)
from r1kit.students.rows import Row
from r1kit.teacher.engine import Message

REPLY = "<think>\n2+3=5\n</think>\n\\boxed{5}"
ASK = (Message("user", "2+3?"),)

DROPS_THINKING = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>"
    "{{ m['content'].split('</think>')[-1] }}<|end|>"
    "{% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OPENS_THINKING = DROPS_THINKING.replace(
    "{% if add_generation_prompt %}<|assistant|>",
    "{% if add_generation_prompt %}<|assistant|><think>\n",
)
ENDS_OTHERWISE = (
    "{% for m in messages %}<|user|>{{ m['role'] }}: {{ m['content'] }}<|pad|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|user|>assistant: {% endif %}"
)


@pytest.fixture
def templated(tokenizer: Any) -> Callable[[str], Any]:
    """The byte tokenizer with another chat template."""
    from r1kit.teacher.tiny.tokenizer import build_tokenizer

    def build(template: str) -> Any:
        other = build_tokenizer()
        other.chat_template = template
        return other

    return build


def split(tokenizer: Any, example: Example) -> tuple[str, str]:
    """What is shown and what is trained, as text."""
    ids = list(zip(example.input_ids, example.loss_mask, strict=True))
    shown = [i for i, trained in ids if not trained]
    trained = [i for i, trained in ids if trained]
    return tokenizer.decode(shown), tokenizer.decode(trained)


def test_prompt_is_masked_and_reply_with_its_end_is_trained(tokenizer: Any) -> None:
    example = make_example(tokenizer, ASK, REPLY)
    assert split(tokenizer, example) == ("<|begin|><|user|>2+3?<|assistant|>", REPLY + "<|end|>")
    assert example.input_ids[-1] == tokenizer.eos_token_id and example.loss_mask[-1]


def test_plain_tokens_are_those_of_the_template_on_the_whole_conversation(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": REPLY}]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    assert list(make_example(tokenizer, ASK, REPLY).input_ids) == whole
    prepared = prepare(tokenizer, [Row("a", ASK, REPLY)], max_length=99)
    assert prepared.notes == {}


def test_earlier_turns_are_shown_and_not_trained(tokenizer: Any) -> None:
    turns = (*ASK, Message("assistant", "5"), Message("user", "sure?"))
    shown, trained = split(tokenizer, make_example(tokenizer, turns, "yes"))
    assert shown == "<|begin|><|user|>2+3?<|assistant|>5<|end|><|user|>sure?<|assistant|>"
    assert trained == "yes<|end|>"


def test_thinking_is_trained_where_the_template_drops_it_and_that_is_counted(
    templated: Callable[[str], Any],
) -> None:
    tokenizer = templated(DROPS_THINKING)
    prepared = prepare(tokenizer, [Row("a", ASK, REPLY), Row("b", ASK, "5")], max_length=99)
    assert split(tokenizer, prepared.examples[0])[1] == REPLY + "<|end|>"
    assert prepared.notes == {Note.TEMPLATE_DIFFERS: 1}
    assert prepared.instances == {Note.TEMPLATE_DIFFERS: "a"}


def test_thinking_that_the_template_opens_is_not_opened_twice(
    templated: Callable[[str], Any],
) -> None:
    tokenizer = templated(OPENS_THINKING)
    shown, trained = split(tokenizer, make_example(tokenizer, ASK, REPLY))
    assert shown.endswith("<|assistant|><think>\n")
    assert trained == "2+3=5\n</think>\n\\boxed{5}<|end|>"
    notes = prepare(tokenizer, [Row("a", ASK, REPLY)], max_length=99).notes
    assert notes[Note.THINKING_OPENED_BY_TEMPLATE] == 1


def test_the_end_is_the_one_that_the_template_writes(templated: Callable[[str], Any]) -> None:
    tokenizer = templated(ENDS_OTHERWISE)
    format = ReplyFormat.of(tokenizer)
    assert format.after == "<|pad|>\n"
    assert format.end_id == tokenizer.convert_tokens_to_ids("<|pad|>") != tokenizer.eos_token_id
    prepared = prepare(tokenizer, [Row("a", ASK, REPLY)], max_length=99)
    assert split(tokenizer, prepared.examples[0])[1] == REPLY + "<|pad|>"
    assert prepared.notes == {}


def test_too_long_examples_are_left_out_and_counted(tokenizer: Any) -> None:
    rows = [Row("short", ASK, "5"), Row("long", ASK, "5" * 100)]
    prepared = prepare(tokenizer, rows, max_length=50)
    assert [example.id for example in prepared.examples] == ["short"]
    assert prepared.notes == {Note.TOO_LONG: 1} and prepared.instances[Note.TOO_LONG] == "long"


def test_too_long_examples_are_cut_on_request_and_counted(tokenizer: Any) -> None:
    rows = [Row("long", ASK, "5" * 100), Row("prompt", (Message("user", "x" * 60),), "5")]
    prepared = prepare(tokenizer, rows, max_length=50, too_long="truncate")
    (example,) = prepared.examples
    assert len(example) == 50
    assert split(tokenizer, example)[1] == "5" * 43  # 7 tokens of prompt, and no end: it was cut
    assert prepared.notes == {Note.TRUNCATED: 1, Note.PROMPT_FILLS_ALL: 1}


def test_examples_without_a_trained_token_are_counted_and_none_left_is_an_error(
    tokenizer: Any,
) -> None:
    rows = [Row("a", ASK, " \n"), Row("b", ASK, ""), Row("c", ASK, "5" * 99)]
    with pytest.raises(ExamplesError, match=r"none of 3 .* 1 too_long, 2 empty_reply .*50"):
        prepare(tokenizer, rows, max_length=50)


def test_a_template_that_refuses_a_role_says_so(templated: Callable[[str], Any]) -> None:
    tokenizer = templated(
        "{% for m in messages %}{% if m['role'] == 'system' %}"
        "{{ raise_exception('no system prompt') }}{% endif %}{{ m['content'] }}<|end|>{% endfor %}"
    )
    rows = [Row("a", (Message("system", "s"), *ASK), "5")]
    with pytest.raises(ExamplesError, match="refuses turns of system, user: no system prompt"):
        prepare(tokenizer, rows, max_length=50)


@pytest.mark.parametrize(
    ("ids", "mask", "says"),
    [
        ((1, 2), (False,), "2 ids but 1 mask values"),
        ((1, 2), (False, False), "some token must be trained"),
        ((1, 2), (True, True), "never the first"),
    ],
)
def test_an_example_is_refused_that_cannot_be_trained(
    ids: tuple[int, ...], mask: tuple[bool, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Example(ids, mask)


def test_text_in_any_script_comes_back_from_the_trained_tokens(tokenizer: Any) -> None:
    reply = "<think>\nπ ≈ 3.14, 数学, emoji 🙂, tab\t\n</think>\nok"
    assert split(tokenizer, make_example(tokenizer, ASK, reply))[1] == reply + "<|end|>"

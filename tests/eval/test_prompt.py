"""Prompts: DeepSeek's advice by default, the statement untouched, and templates checked."""

import pytest
from pydantic import ValidationError
from r1kit.eval.problems import Problem
from r1kit.eval.prompt import PromptSettings, math_prompt
from r1kit.teacher.engine import split_thinking

PROBLEM = Problem("a", r"Find \frac{1}{2} of {x} in {statement}.", "1", "s")


def test_the_default_is_one_user_turn_that_asks_for_a_box_and_opens_the_thinking() -> None:
    prompt = math_prompt(PROBLEM)
    assert [message.role for message in prompt.messages] == ["user"]
    assert prompt.messages[0].content == (
        PROBLEM.statement
        + "\n\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    assert prompt.prefill == "<think>\n"
    assert prompt.thinking_is_open


def test_the_bare_template_shows_the_statement_and_nothing_else() -> None:
    prompt = math_prompt(PROBLEM, PromptSettings(template="{statement}"))
    assert prompt.messages[0].content == PROBLEM.statement


def test_without_thinking_the_answer_starts_at_once() -> None:
    prompt = math_prompt(PROBLEM, thinking=False)
    assert not prompt.thinking_is_open
    assert split_thinking(prompt.prefill + "42") == ("", "\n\n42", ())


@pytest.mark.parametrize(
    "template",
    ["no placeholder", "{statement} {hint}", r"{statement} \boxed{}", "{statement", "{}"],
)
def test_a_template_that_cannot_work_is_refused(template: str) -> None:
    with pytest.raises(ValidationError, match=r"statement|brace"):
        PromptSettings(template=template)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        PromptSettings.model_validate({"tempate": "{statement}"})

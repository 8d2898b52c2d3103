"""How a problem is put to a model: the user's turn, and what the reply is forced to begin with.

Source: DeepSeek-R1's model card: no system prompt, the instruction about the box in the user's
turn, and a reply that is forced to begin with `<think>` and a line break.
"""

import string

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..teacher.engine import THINK_CLOSE, THINK_OPEN, Prompt
from .problems import Problem

STEP_BY_STEP = (
    "{statement}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
)
"""The user's turn that DeepSeek advises for mathematics, as a template for `str.format`."""


class PromptSettings(BaseModel):
    """How problems are put to a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field(
        default=STEP_BY_STEP, description="the user's turn; {statement} stands for the problem"
    )
    prefill: str = Field(
        default=f"{THINK_OPEN}\n",
        description="what the reply is forced to begin with; empty forces nothing",
    )

    @field_validator("template")
    @classmethod
    def _has_the_statement_and_nothing_else(cls, template: str) -> str:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(template)]
        except ValueError as error:
            raise ValueError(
                f"{error}; a literal brace is written twice, as in \\boxed{{{{}}}}"
            ) from error
        if {name for name in names if name is not None} != {"statement"}:
            raise ValueError(
                "needs {statement} and no other placeholder; a literal brace is written twice, "
                "as in \\boxed{{}}"
            )
        return template


NO_THINKING_PREFILL = f"{THINK_OPEN}\n\n{THINK_CLOSE}\n\n"
"""A reply that begins with this has thought already, about nothing, and must answer at once."""


def math_prompt(
    problem: Problem, settings: PromptSettings | None = None, *, thinking: bool = True
) -> Prompt:
    """The prompt for one problem.

    Args:
        problem: its statement is shown as it is, braces included.
        settings: by default DeepSeek's advice for R1.
        thinking: False forces an answer without thinking, whatever the settings' prefill says.
    """
    settings = settings or PromptSettings()
    content = settings.template.format(statement=problem.statement)
    return Prompt.user(content, prefill=settings.prefill if thinking else NO_THINKING_PREFILL)

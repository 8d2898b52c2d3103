"""What the teacher's tokens cost, in words: only a price that is known becomes a number."""

from ..teacher.settings import EngineSettings


def cost_in_words(teacher: EngineSettings) -> str:
    """`0 (local)` for an engine in this process, else which price is missing."""
    if teacher.kind == "torch":
        return "0 (local)"
    return f"unknown: no price for {teacher.model}"

"""The four things that can be said of an answer. "Could not tell" is never "no"."""

from enum import StrEnum


class Verdict(StrEnum):
    """What a judge says of one answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNVERIFIABLE = "unverifiable"
    """The judge worked and cannot decide."""
    INFRA_ERROR = "infra_error"
    """The judge broke or ran out of time: to be judged again, never counted as wrong."""

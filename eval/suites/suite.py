"""What a suite is: where its rows come from, what is known of them, and how answers are judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ..math.policy import MathPolicy
from ..problems import Problem, ProblemsError
from ..prompt import STEP_BY_STEP


class SuiteError(ProblemsError):
    """A suite cannot be used as it is. The message starts with the suite's name."""


class Kind(StrEnum):
    """How the answers to a suite's problems are judged."""

    MATH = "math"
    """The final answer is compared with the right one by the math verifier."""
    CHOICE = "choice"
    """One of several options, which are shuffled for every sample."""
    SHORT_ANSWER = "short_answer"
    """Words, which another model compares with the right ones."""
    GYM = "gym"
    """reasoning-gym's own scorer of the task decides."""


CHOICE_TEMPLATE = (
    "{statement}\n\nPlease reason step by step, and put the letter of the right option within "
    "\\boxed{{}}."
)
"""The user's turn of multiple choice; `{statement}` is the question with its lettered options."""

GYM_TEMPLATE = (
    "{statement}\n\nPlease reason step by step, and put your final answer, and nothing else, "
    "between <answer> and </answer>."
)
"""The user's turn of reasoning-gym's tasks, many of whose answers are grids of several lines."""

TEMPLATES: Mapping[Kind, str] = {
    Kind.MATH: STEP_BY_STEP,
    Kind.CHOICE: CHOICE_TEMPLATE,
    Kind.SHORT_ANSWER: "{statement}",
    Kind.GYM: GYM_TEMPLATE,
}
"""The user's turn for every kind, where neither the suite nor the caller says otherwise."""


DEFAULT_POLICY = MathPolicy()


@dataclass(frozen=True, slots=True)
class Hub:
    """A data set on huggingface.co. No revision: none was stated by a source that was read."""

    id: str
    split: str
    config: str | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite.

    Attributes:
        name: what the command line calls it.
        title: the same for people.
        kind: how answers are judged.
        files: names under the user's data directory that it is looked up under, in this order.
        hub: where it is loaded from without a data directory.
        rows: how many problems it has; None where that is not known.
        sha256: of its normalised rows (`fingerprint.py`); None where no copy was at hand.
        samples: answers per problem where the caller does not say.
        integers: whether every right answer is a whole number, and must be one.
        policy: what counts as the same answer, for `Kind.MATH`.
        origin: where the data come from, in words, for the message that they are missing.
    """

    name: str
    title: str
    kind: Kind = Kind.MATH
    files: tuple[str, ...] = ()
    hub: Hub | None = None
    rows: int | None = None
    sha256: str | None = None
    samples: int = 1
    integers: bool = False
    policy: MathPolicy = DEFAULT_POLICY
    origin: str = ""

    @property
    def template(self) -> str:
        """The user's turn around `{statement}`."""
        return TEMPLATES[self.kind]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the problems of one run came from: part of a score's provenance.

    Attributes:
        place: a path, a hub id with its split, or what generated them.
        rows: problems found there, before any limit.
        sha256: of the normalised rows found there.
        is_expected: whether count and digest are those of the catalogue; None where it has none.
        notes: what is different, where it was accepted or could not be helped.
    """

    place: str
    rows: int
    sha256: str
    is_expected: bool | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedSuite:
    """A suite with its problems, ready to be asked."""

    suite: Suite
    problems: list[Problem]
    source: Source


@dataclass(frozen=True, slots=True)
class ChoiceProblem(Problem):
    """A question with options. `answer` is the text of the right one, which is among them."""

    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GymProblem(Problem):
    """A problem that reasoning-gym can make again: `create_dataset(task, size, seed)[place]`."""

    task: str = ""
    size: int = 1
    seed: int = 0
    place: int = 0

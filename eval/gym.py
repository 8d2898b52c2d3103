"""reasoning-gym's tasks: problems that it generates, and its own scorer as their judge.

Both are foreign code, so both run in the pool's workers, which are killed at a time limit. A worker
makes the entry that an answer belongs to again from (task, size, seed, place), which costs less
than to send it and works for entries that do not pickle. The scorer answers a share from 0 to 1;
1 is CORRECT and all else is WRONG: a share that it gives for the format is no right answer.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..teacher.engine import Prompt
from .judge import Answered, ask_template
from .math.extract import Rule, find_boxes
from .math.verify import MEMORY_MIB, Judgement
from .pool import Failure, Pool, Result
from .problems import Problem
from .prompt import PromptSettings
from .suites.suite import GymProblem, SuiteError
from .verdict import Verdict

GYM_JUDGE = "gym/1"
SIZE = 100
"""Problems of a task where no limit says otherwise."""

START_S = 60.0
"""Wall-clock seconds for generating one problem, the import of reasoning-gym included."""

ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


def gym_version() -> str:
    """The version of reasoning-gym that is installed.

    Raises:
        SuiteError: it is not installed.
    """
    try:
        return version("reasoning-gym")
    except PackageNotFoundError as error:
        raise SuiteError(
            "gym: needs reasoning-gym, which is not installed: pip install 'r1kit[gym]' (it takes "
            "a C++ compiler)"
        ) from error


def gym_problems(task: str, limit: int | None, seed: int) -> list[GymProblem]:
    """Generate problems of one task.

    Raises:
        SuiteError: reasoning-gym is not installed, has no such task, or fails to generate.
    """
    gym_version()
    size = SIZE if limit is None else limit
    wanted = [_Place(task, size, seed, place) for place in range(size)]
    made: dict[int, tuple[str, str | None]] = {}
    with Pool(1, START_S, memory_mib=MEMORY_MIB) as pool:
        for result in pool.map(_make, wanted):
            if result.value is None:
                raise SuiteError(f"gym:{task}: {_why(result)}")
            made[result.index] = result.value
    return [
        GymProblem(
            id=f"gym-{task}-{seed}-{place}",
            statement=made[place][0],
            answer=made[place][1],
            source=f"gym/{task}",
            split="test",
            task=task,
            size=size,
            seed=seed,
            place=place,
        )
        for place in range(size)
    ]


class GymJudge:
    """Judges answers to `GymProblem`s."""

    name = GYM_JUDGE

    def __init__(self, workers: int = 1, timeout_s: float = 10.0) -> None:
        self._limits = (workers, timeout_s)

    def prompt(self, problem: Problem, index: int, settings: PromptSettings) -> Prompt:
        """The task's question in the user's turn."""
        return ask_template(problem.statement, settings)

    def judge(self, answers: Sequence[Answered]) -> Iterator[tuple[str, Judgement]]:
        """See `Judge.judge`."""
        found = [(answered, *extract_gym(answered.answer)) for answered in answers]
        waiting: list[tuple[str, str, Rule, _Scored]] = []
        for answered, text, rule in found:
            if not text:
                yield answered.key, Judgement(Verdict.WRONG, "", rule, "no answer")
            else:
                waiting.append((answered.key, text, rule, _Scored(_place(answered.problem), text)))
        if not waiting:
            return
        workers, timeout_s = self._limits
        with Pool(min(workers, len(waiting)), timeout_s, memory_mib=MEMORY_MIB) as pool:
            for result in _twice(pool, [scored for *_, scored in waiting]):
                key, text, rule, _ = waiting[result.index]
                verdict, reason = _verdict(result)
                yield key, Judgement(verdict, text, rule, reason)

    def alike(self, pairs: Sequence[tuple[Problem, str, str]]) -> list[bool] | None:
        """See `Judge.alike`: the scorer compares with the right answer only, so texts decide."""
        return [False] * len(pairs)

    @property
    def settings(self) -> dict[str, Any]:
        """Whose scorer, and its limit."""
        return {"reasoning-gym": gym_version(), "timeout_s": self._limits[1]}


def extract_gym(reply: str | None) -> tuple[str, Rule]:
    """The answer in a reply: the last <answer>, else the last box, else the whole reply."""
    if reply is None:
        return "", Rule.NONE
    tagged = ANSWER.findall(reply)
    if tagged:
        return tagged[-1].strip(), Rule.PHRASE
    boxes = [box for box in find_boxes(reply)[0] if box]
    if boxes:
        return boxes[-1], Rule.BOXED
    return reply.strip(), Rule.WHOLE if reply.strip() else Rule.NONE


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an entry stands: what makes it again."""

    task: str
    size: int
    seed: int
    place: int


@dataclass(frozen=True, slots=True)
class _Scored:
    """An answer to one entry."""

    at: _Place
    answer: str


def _place(problem: Problem) -> _Place:
    assert isinstance(problem, GymProblem), "gym suites hold nothing else"
    return _Place(problem.task, problem.size, problem.seed, problem.place)


@lru_cache(maxsize=4)
def _dataset(task: str, size: int, seed: int) -> Any:
    """In the worker: the task's data set."""
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        near = get_close_matches(task, DATASETS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(sorted(DATASETS))}"
        raise LookupError(f"reasoning-gym has no task {task!r}{hint}")
    return reasoning_gym.create_dataset(task, size=size, seed=seed)


def _make(at: _Place) -> tuple[str, str | None]:
    """In the worker: one entry's question and answer; None where its scorer needs none."""
    entry = _dataset(at.task, at.size, at.seed)[at.place]
    answer = entry["answer"]
    return str(entry["question"]), None if answer is None else str(answer)


def _score(scored: _Scored) -> float:
    """In the worker: what reasoning-gym gives for an answer, from 0 to 1."""
    data = _dataset(scored.at.task, scored.at.size, scored.at.seed)
    return float(data.score_answer(scored.answer, data[scored.at.place]))


def _twice(pool: Pool, items: Sequence[_Scored]) -> Iterator[Result[float]]:
    """Score everything; what lost its worker is tried once more, at the end."""
    lost: list[int] = []
    for result in pool.map(_score, items):
        if result.failure in (Failure.TIMEOUT, Failure.CRASH):
            lost.append(result.index)
        else:
            yield result
    for result in pool.map(_score, [items[place] for place in lost]):
        yield Result(lost[result.index], result.value, result.failure, result.message)


def _verdict(result: Result[float]) -> tuple[Verdict, str]:
    """What a score, or its absence, says."""
    if result.value is not None:
        verdict = Verdict.CORRECT if result.value == 1.0 else Verdict.WRONG
        return verdict, f"reasoning-gym's score is {result.value:g}"
    if result.failure is Failure.CRASH:
        return Verdict.INFRA_ERROR, f"reasoning-gym's scorer failed twice: {result.message}"
    return Verdict.UNVERIFIABLE, f"reasoning-gym's scorer: {_why(result)}"


def _why(result: Result[Any]) -> str:
    return result.message.removeprefix("LookupError: ") or str(result.failure)

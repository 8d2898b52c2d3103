"""A model on a set of problems: ask for what is missing, judge the answers, score them.

The ledger holds the raw answers, so a second call with the same engine, problems and settings asks
nothing again, and one with more samples asks for the new ones only. Judging is repeated each time;
its words are stored in the ledger under `JUDGE`.

What counts as what: an answer cut off at the token limit is not judged; it counts as not right and
as `truncated`. A request that got no answer counts as undecided, as do answers that the judge
cannot decide; neither is ever called wrong.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .. import KitError
from ..teacher.collect import Collected, collect
from ..teacher.engine import Completion, Engine, Finish, Request, Sampling
from ..teacher.ledger import Ledger
from .math.extract import Rule
from .math.policy import policy_of
from .math.verify import JUDGE, Judgement, MathItem, verify_answers
from .problems import Problem
from .prompt import PromptSettings, math_prompt
from .score import Score, pass_at_1
from .verdict import Verdict

TRUNCATED = Judgement(Verdict.WRONG, "", Rule.NONE, "cut off at the token limit")
UNANSWERED = Judgement(
    Verdict.INFRA_ERROR, "", Rule.NONE, "the engine gave no usable answer; asked again next time"
)
NO_GOLD = Judgement(Verdict.UNVERIFIABLE, "", Rule.NONE, "the problem states no answer")


class EvaluationError(KitError):
    """What was given cannot be evaluated."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of an evaluation.

    Attributes:
        problem: what was asked.
        index: which of the problem's samples it is.
        key: the sample's key in the ledger.
        judgement: the verdict, the extracted answer and the reason.
        finish: why the model stopped; `ERROR` where no usable answer came.
        completion_tokens: tokens written, thinking included.
    """

    problem: Problem
    index: int
    key: str
    judgement: Judgement
    finish: Finish
    completion_tokens: int

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut off at the token limit."""
        return self.finish is Finish.LENGTH


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's score, as a whole and by source, and the samples it is made of.

    `rows` are in the order of the problems, and within a problem by sample.
    """

    score: Score
    by_source: dict[str, Score]
    rows: tuple[Row, ...]
    collected: Collected


def evaluate(
    engine: Engine,
    problems: Sequence[Problem],
    ledger: Ledger,
    *,
    sampling: Sampling,
    samples: int = 1,
    seed: int = 0,
    prompt: PromptSettings | None = None,
    workers: int = 2,
    timeout_s: float = 10.0,
    progress: Callable[[Collected], None] | None = None,
    on_judged: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score an engine by pass@1, averaged over `samples` answers to each problem.

    Args:
        engine: who answers; it is not closed.
        problems: what is asked; ids must be unique.
        ledger: where raw answers are kept and looked up first; it is not closed.
        sampling: how answers are drawn.
        samples: answers per problem.
        seed: every sample's own seed is derived from it, the problem's id and the sample's index.
        prompt: how problems are put; by default DeepSeek's advice for R1.
        workers: processes for slow comparisons of answers.
        timeout_s: limit of one comparison.
        progress: called while answers come in.
        on_judged: called after every verdict with the number of verdicts so far.

    Raises:
        EvaluationError: there are no problems, or two have the same id.
        EngineError, LedgerError: as `collect` raises them; what was answered is kept.
    """
    _check(problems, samples)
    asked = _requests(problems, sampling, samples, seed, prompt or PromptSettings())
    collected = collect(engine, ledger, [request for *_, request in asked], progress=progress)
    keys = [request.key(engine.identity) for *_, request in asked]
    completions = dict(ledger.completions(keys))
    items = [
        (problem, key, completions.get(key))
        for (problem, _, _), key in zip(asked, keys, strict=True)
    ]
    judgements = _judge(items, workers, timeout_s, on_judged)
    ledger.put_verdicts(_verdict_row(p, key, judgements[key]) for p, key, _ in items)
    rows = tuple(
        _row(problem, index, key, completions.get(key), judgements[key])
        for (problem, index, _), key in zip(asked, keys, strict=True)
    )
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_source[row.problem.source].append(row)
    return Evaluation(
        score_rows(rows),
        {source: score_rows(part) for source, part in sorted(by_source.items())},
        rows,
        collected,
    )


def score_rows(rows: Sequence[Row]) -> Score:
    """pass@1 of some samples."""
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    for row in rows:
        verdicts[row.problem.id].append(row.judgement.verdict)
    return pass_at_1(verdicts, truncated=sum(row.truncated for row in rows))


def sample_seed(seed: int, problem_id: str, index: int) -> int:
    """The seed of one sample, in [0, 2**31): the same on every machine and in every order."""
    text = json.dumps([seed, problem_id, index], ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1


def _check(problems: Sequence[Problem], samples: int) -> None:
    if not problems:
        raise EvaluationError("there are no problems to evaluate on")
    if samples < 1:
        raise EvaluationError(f"samples must be at least 1, got {samples}")
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise EvaluationError(f"two problems have the id {problem.id!r}; ids must be unique")
        seen.add(problem.id)


def _requests(
    problems: Sequence[Problem], sampling: Sampling, samples: int, seed: int, prompt: PromptSettings
) -> list[tuple[Problem, int, Request]]:
    """What is asked: (problem, sample, request), problem by problem."""
    return [
        (
            problem,
            index,
            Request(
                math_prompt(problem, prompt),
                sampling,
                index,
                sample_seed(seed, problem.id, index),
                problem.id,
            ),
        )
        for problem in problems
        for index in range(samples)
    ]


def _judge(
    items: Sequence[tuple[Problem, str, Completion | None]],
    workers: int,
    timeout_s: float,
    on_judged: Callable[[int], None] | None,
) -> dict[str, Judgement]:
    """Judge every sample that has an answer to judge; key -> judgement."""
    judged: dict[str, Judgement] = {}
    waiting: list[MathItem] = []
    for problem, key, completion in items:
        if completion is None or completion.finish is Finish.ERROR:
            judged[key] = UNANSWERED
        elif completion.finish is Finish.LENGTH:
            judged[key] = TRUNCATED
        elif problem.answer is None:
            judged[key] = NO_GOLD
        else:
            policy = policy_of(problem.source)
            waiting.append(
                MathItem(key, completion.answer, problem.answer, policy, problem.statement)
            )
    for key, judgement in verify_answers(waiting, workers, timeout_s):
        judged[key] = judgement
        if on_judged is not None:
            on_judged(len(judged))
    return judged


def _verdict_row(
    problem: Problem, key: str, judgement: Judgement
) -> tuple[str, str, str, str | None, str]:
    """A judgement as the ledger keeps it."""
    evidence = {
        "gold": problem.answer,
        "rule": judgement.rule,
        "reason": judgement.reason,
        "tags": judgement.tags,
    }
    text = json.dumps(evidence, ensure_ascii=False)
    return key, JUDGE, str(judgement.verdict), judgement.extracted or None, text


def _row(
    problem: Problem, index: int, key: str, completion: Completion | None, judgement: Judgement
) -> Row:
    if completion is None:
        return Row(problem, index, key, judgement, Finish.ERROR, 0)
    return Row(problem, index, key, judgement, completion.finish, completion.completion_tokens)

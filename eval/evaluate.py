"""A model on a set of problems: ask for what is missing, judge the answers, score them.

The ledger holds the raw answers, so a second call with the same engine, problems and settings asks
nothing again, and one with more samples asks for the new ones only. Answers are judged while others
still come in. Judging is repeated each time; its words are stored in the ledger under the judge's
name.

What counts as what: an answer cut off at the token limit is not judged; it counts as not right and
as `truncated`. A prompt that leaves a model no room for a reply is not right either, and is tagged
`NO_ROOM`: asking again would not help. Any other request that got no answer counts as undecided, as
do answers that the judge cannot decide; neither is ever called wrong.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .. import KitError
from ..teacher.collect import Collected, collect
from ..teacher.engine import Completion, Engine, Finish, Request, Sampling
from ..teacher.ledger import Ledger
from .judge import Answered, Judge, MathJudge
from .live import LiveJudge, Running
from .math.extract import Rule
from .math.verify import Judgement
from .outcome import Outcome
from .problems import Problem
from .prompt import PromptSettings
from .score import Score, pass_at_1
from .verdict import Verdict

TRUNCATED = Judgement(Verdict.WRONG, "", Rule.NONE, "cut off at the token limit")
NO_ROOM = "no room for a reply"
"""The tag of samples whose prompt alone fills the model's context, and the words of `TorchEngine`.

A server's error does not tell such a prompt from a token limit that is set too high.
"""


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

    def outcome(self, suite: str = "", answer_class: str | None = None) -> Outcome:
        """What became of it, as score cards count it."""
        return Outcome(
            problem_id=self.problem.id,
            index=self.index,
            verdict=self.judgement.verdict,
            answered=bool(self.judgement.extracted),
            truncated=self.truncated,
            completion_tokens=self.completion_tokens,
            answer_class=answer_class,
            source=self.problem.source,
            suite=suite,
        )


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
    judge: Judge | None = None,
    workers: int = 2,
    timeout_s: float = 10.0,
    progress: Callable[[Collected], None] | None = None,
    on_judged: Callable[[Running], None] | None = None,
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
        judge: who judges the answers; by default the math verifier. It is not closed.
        workers: processes for slow comparisons of answers, of the default judge.
        timeout_s: limit of one comparison, of the default judge.
        progress: called while answers come in.
        on_judged: called, in another thread, while answers are judged.

    Raises:
        EvaluationError: there are no problems, or two have the same id.
        EngineError, LedgerError: as `collect` raises them; what was answered is kept.
    """
    _check(problems, samples)
    judge = judge or MathJudge(workers=workers, timeout_s=timeout_s)
    asked = _requests(problems, judge, sampling, samples, seed, prompt or PromptSettings())
    with LiveJudge(judge, on_judged) as live:
        desk = _Desk(
            live,
            {r.key(engine.identity): (problem, index) for problem, index, r in asked},
        )
        collected = desk.collect(engine, ledger, [request for *_, request in asked], progress)
        judgements = live.finish(again=collected.answered > 0)
    for key, error in desk.unanswered(ledger).items():
        judgements[key] = _unanswered(error)
    rows = tuple(desk.row(key, judgements[key]) for key in desk.samples)
    ledger.put_verdicts(_verdict_row(row, judge.name) for row in rows)
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
    problems: Sequence[Problem],
    judge: Judge,
    sampling: Sampling,
    samples: int,
    seed: int,
    prompt: PromptSettings,
) -> list[tuple[Problem, int, Request]]:
    """What is asked: (problem, sample, request), problem by problem."""
    return [
        (
            problem,
            index,
            Request(
                judge.prompt(problem, index, prompt),
                sampling,
                index,
                sample_seed(seed, problem.id, index),
                problem.id,
            ),
        )
        for problem in problems
        for index in range(samples)
    ]


class _Desk:
    """Hands every answer to the judge once, and keeps of it what its row needs.

    Args:
        live: who judges.
        samples: key -> (problem, sample), in the order of the rows.
    """

    def __init__(self, live: LiveJudge, samples: Mapping[str, tuple[Problem, int]]) -> None:
        self.samples = samples
        self._live = live
        self._seen: dict[str, tuple[Finish, int]] = {}

    def collect(
        self,
        engine: Engine,
        ledger: Ledger,
        requests: Sequence[Request],
        progress: Callable[[Collected], None] | None,
    ) -> Collected:
        """Judge what the ledger holds, ask for the rest, and judge that as it comes."""
        self._take(ledger.completions(self.samples))
        return collect(
            engine,
            ledger,
            requests,
            progress=progress,
            on_completions=lambda read: self._take(read.items()),
        )

    def unanswered(self, ledger: Ledger) -> dict[str, str]:
        """The samples without a usable answer, each with the last error."""
        left = [key for key in self.samples if key not in self._seen]
        return dict.fromkeys(left, "no usable answer") | ledger.failures(left)

    def row(self, key: str, judgement: Judgement) -> Row:
        """One sample's row."""
        problem, index = self.samples[key]
        finish, num_tokens = self._seen.get(key, (Finish.ERROR, 0))
        return Row(problem, index, key, judgement, finish, num_tokens)

    def _take(self, completions: Iterable[tuple[str, Completion]]) -> None:
        for key, completion in completions:
            self._seen[key] = completion.finish, completion.completion_tokens
            problem, index = self.samples[key]
            answered = Answered(problem, index, key, completion.answer)
            is_cut = completion.finish is Finish.LENGTH
            self._live.put(answered, TRUNCATED if is_cut else None, truncated=is_cut)


def _unanswered(error: str) -> Judgement:
    """What is said of a sample that the engine did not answer."""
    if NO_ROOM in error:
        return Judgement(Verdict.WRONG, "", Rule.NONE, f"the engine: {error}", (NO_ROOM,))
    reason = f"the engine: {error}; asked again next time"
    return Judgement(Verdict.INFRA_ERROR, "", Rule.NONE, reason)


def _verdict_row(row: Row, judge: str) -> tuple[str, str, str, str | None, str]:
    """A row's judgement as the ledger keeps it."""
    judgement = row.judgement
    evidence = {
        "gold": row.problem.answer,
        "rule": judgement.rule,
        "reason": judgement.reason,
        "tags": judgement.tags,
    }
    text = json.dumps(evidence, ensure_ascii=False)
    return row.key, judge, str(judgement.verdict), judgement.extracted or None, text

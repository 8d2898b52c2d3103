"""An engine as lm-eval's model: its requests become samples in the ledger, their replies answers.

Every repeat of a request is a sample with an index and a seed of its own, asked through `collect`:
a killed run goes on where it stopped, and a second one asks nothing again, sampled answers included
(lm-eval's own cache never serves those).

What lm-eval gets back is the reply after the thinking, cut at the task's stop strings. Thinking is
never cut. A thought that never closes and a reply cut off at the token limit are TRUNCATED, and
lm-eval gets an empty answer for them, which its tasks score as wrong. A request that the engine did
not answer is INFRA_ERROR, and nothing is known: its question is to be left out of the score.

This module needs the extra `lm-eval`; `lm_eval_run` is what checks that.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lm_eval.api.model import LM

from .. import KitError
from ..teacher.collect import Collected, collect
from ..teacher.engine import (
    THINK_OPEN,
    Completion,
    Engine,
    Finish,
    Message,
    Prompt,
    Request,
    Sampling,
)
from ..teacher.ledger import Ledger
from .evaluate import sample_seed
from .prompt import NO_THINKING_PREFILL

THINKING_PREFILL = f"{THINK_OPEN}\n"

DEFAULT_TOKENS = 256
"""What lm-eval's own models write at most where a task does not say (`max_gen_toks`)."""

LENGTHS = ("max_gen_toks", "max_tokens", "max_new_tokens", "max_completion_tokens")
UNDERSTOOD = {*LENGTHS, "until", "do_sample", "temperature", "top_p"}


class LmEvalError(KitError):
    """lm-eval cannot run a task here. The message names the task and what would do."""


class Outcome(StrEnum):
    """What became of one sample."""

    ANSWERED = "answered"
    NO_ANSWER = "no_answer"
    """The thinking closed and nothing followed."""
    TRUNCATED = "truncated"
    """The thinking never closed, or the reply was cut off at the token limit."""
    INFRA_ERROR = "infra_error"
    """The engine gave no usable answer; asked again next time."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sample of a task.

    Attributes:
        task: lm-eval's name of the task.
        doc_id: the question's place in the task's data.
        index: which of the question's samples it is.
        key: in the ledger.
        outcome: what became of it.
        reply: what lm-eval was given; empty unless ANSWERED.
        completion_tokens: tokens written, thinking included.
        was_stopped: whether a stop string of the task cut the reply.
        value: what the task's first metric makes of this sample alone; None where that is no
            number, or nothing is known.
        gold: the task's target, in words.
    """

    task: str
    doc_id: int
    index: int
    key: str
    outcome: Outcome
    reply: str
    completion_tokens: int
    was_stopped: bool
    value: float | None = None
    gold: str = ""


class EngineLM(LM):  # type: ignore[misc]  # lm-eval carries no types
    """lm-eval's view of an engine; for generation it needs `apply_chat_template=True`.

    Args:
        engine: who answers; it is not closed.
        ledger: where raw answers are kept; it is not closed.
        sampling: how every task is sampled; None leaves that to each task.
        thinking: whether a reply is forced to begin with an open thinking block, or with one that
            is closed already.
        seed: every sample's own seed is derived from it, the question and the sample's index.
        progress: called while answers come in.

    Attributes:
        sampled: every sample that was asked for, in lm-eval's order.
        collected: how the asking went; None before it.
        notices: what was done other than a task says, and how often.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        *,
        sampling: Sampling | None,
        thinking: bool = True,
        seed: int = 0,
        progress: Callable[[Collected], None] | None = None,
    ) -> None:
        super().__init__()
        self._engine, self._ledger, self._sampling = engine, ledger, sampling
        self._thinking, self._seed, self._progress = thinking, seed, progress
        self.sampled: list[Sampled] = []
        self.collected: Collected | None = None
        self.notices: Counter[str] = Counter()

    @property
    def failed(self) -> set[tuple[str, int]]:
        """Questions, as (task, doc_id), of which a sample has no answer."""
        return {(s.task, s.doc_id) for s in self.sampled if s.outcome is Outcome.INFRA_ERROR}

    @property
    def tokenizer_name(self) -> str:
        """Names lm-eval's cache of requests, which is not used here."""
        identity = self._engine.identity
        return f"{identity.kind}:{identity.model}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Empty: the engine has the template."""
        return ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns as JSON; `generate_until` reads them again, and the engine renders them.

        Without a generation prompt the last turn is the beginning of the reply, `assistant`'s.
        """
        return json.dumps(chat_history, ensure_ascii=False)

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Replies to (context, settings) requests, repeats included, in their order.

        Raises:
            EngineError, LedgerError: as `collect` raises them; what was answered is kept.
        """
        repeats: Counter[tuple[str, int, int]] = Counter()
        asked = []
        for instance in requests:
            place = (instance.task_name, instance.doc_id, instance.idx)
            asked.append(self._request(instance, repeats[place]))
            repeats[place] += 1
        self.collected = collect(self._engine, self._ledger, asked, progress=self._progress)
        keys = [request.key(self._engine.identity) for request in asked]
        completions = dict(self._ledger.completions(keys))
        sampled = [
            self._sampled(instance, request, key, completions.get(key))
            for instance, request, key in zip(requests, asked, keys, strict=True)
        ]
        self.sampled += sampled
        return [sample.reply for sample in sampled]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """(log-probability, is greedy) of (context, continuation) requests.

        Raises:
            LmEvalError: the engine has no log-probabilities.
        """
        likelihood = self._likelihood(requests)
        scored = [likelihood.continuation(*instance.args) for instance in requests]
        for each, instance in zip(scored, requests, strict=True):
            if each.cut:
                self.notices[
                    f"{instance.task_name}: contexts cut on the left to fit the model, as lm-eval "
                    "does"
                ] += 1
        return [(each.log_probability, each.is_greedy) for each in scored]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
        """Log-probabilities of whole texts.

        Raises:
            LmEvalError: the engine has no log-probabilities.
        """
        likelihood = self._likelihood(requests)
        return [likelihood.text(instance.args[0]) for instance in requests]

    def _likelihood(self, requests: Sequence[Any]) -> Any:
        return likelihood_maker(self._engine, requests[0].task_name)()

    def _request(self, instance: Any, index: int) -> Request:
        """One sample of lm-eval's request."""
        context, settings = instance.args[0], instance.args[1]
        problem_id = f"{instance.task_name}/{instance.doc_id}"
        if instance.idx:
            problem_id += f"/{instance.idx}"
        return Request(
            self._prompt(context, instance.task_name),
            self._sampling_of(instance.task_name, settings),
            index,
            sample_seed(self._seed, problem_id, index),
            problem_id,
        )

    def _prompt(self, context: str, task: str) -> Prompt:
        """The turns without a system prompt, which is DeepSeek's advice, and the forced opening."""
        turns = conversation(context)
        opening = turns.pop().content if turns[-1].role == "assistant" else ""
        if turns[0].role == "system":
            system = turns.pop(0).content
            turns[0] = Message("user", f"{system}\n\n{turns[0].content}")
            self.notices[f"{task}: system prompts put in front of the user's turn"] += 1
        if not self._thinking:
            return Prompt(tuple(turns), NO_THINKING_PREFILL + opening)
        if opening:
            self.notices[
                f"{task}: openings {opening!r} left out, since the reply opens with thinking"
            ] += 1
        return Prompt(tuple(turns), THINKING_PREFILL)

    def _sampling_of(self, task: str, settings: Mapping[str, Any]) -> Sampling:
        own = task_sampling(task, settings)
        used = self._sampling or own
        if used != own:
            self.notices[f"{task}: asked with {spell(used)}; the task says {spell(own)}"] += 1
        if ignored := sorted(set(settings) - UNDERSTOOD):
            self.notices[f"{task}: settings not passed on: {', '.join(ignored)}"] += 1
        return used

    def _sampled(
        self, instance: Any, request: Request, key: str, completion: Completion | None
    ) -> Sampled:
        """What became of a sample, and what lm-eval is to see of it."""
        outcome, reply = outcome_of(completion)
        opening = request.prompt.prefill.removeprefix(NO_THINKING_PREFILL)
        if opening != request.prompt.prefill:
            reply = reply.removeprefix(opening.strip()).strip()
        kept = cut_at(reply, stop_strings(instance.args[1]))
        if kept != reply:
            self.notices[f"{instance.task_name}: replies cut at a stop string of the task"] += 1
        if outcome is Outcome.ANSWERED and not kept.strip():
            outcome = Outcome.NO_ANSWER
        return Sampled(
            instance.task_name,
            instance.doc_id,
            request.index,
            key,
            outcome,
            kept,
            completion.completion_tokens if completion else 0,
            kept != reply,
        )


def conversation(context: str) -> list[Message]:
    """The turns that `apply_chat_template` wrote; any other text is one turn of the user."""
    try:
        turns = [Message(turn["role"], turn["content"]) for turn in json.loads(context)]
    except (ValueError, TypeError, KeyError):
        turns = []
    return turns or [Message("user", context)]


def outcome_of(completion: Completion | None) -> tuple[Outcome, str]:
    """What became of a sample, and the reply after the thinking, empty unless ANSWERED."""
    if completion is None or completion.finish is Finish.ERROR:
        return Outcome.INFRA_ERROR, ""
    if completion.finish is Finish.LENGTH or completion.answer is None:
        return Outcome.TRUNCATED, ""
    reply = completion.answer.strip()
    return (Outcome.ANSWERED if reply else Outcome.NO_ANSWER), reply


def cut_at(reply: str, stops: Sequence[str]) -> str:
    """The reply up to the first stop string in it."""
    ends = [reply.find(stop) for stop in stops if stop]
    return reply[: min((end for end in ends if end >= 0), default=len(reply))]


def stop_strings(settings: Mapping[str, Any]) -> list[str]:
    """A task's stop strings; lm-eval allows one alone, several, or none."""
    until = settings.get("until") or []
    return [until] if isinstance(until, str) else [stop for stop in until if stop]


def task_sampling(task: str, settings: Mapping[str, Any]) -> Sampling:
    """How a task wants to be sampled; without `do_sample`, its temperature decides.

    Raises:
        LmEvalError: its settings are out of range.
    """
    tokens = next((settings[name] for name in LENGTHS if name in settings), DEFAULT_TOKENS)
    temperature = float(settings.get("temperature") or 0.0)
    is_greedy = not settings.get("do_sample", temperature > 0) or temperature == 0
    try:
        if is_greedy:
            return Sampling(0.0, 1.0, int(tokens))
        return Sampling(temperature, float(settings.get("top_p", 1.0)), int(tokens))
    except ValueError as error:
        raise LmEvalError(f"{task}: its generation_kwargs cannot be used: {error}") from error


def spell(sampling: Sampling) -> str:
    """Sampling settings in words."""
    tokens = f"{sampling.max_tokens:,} tokens"
    if sampling.temperature == 0:
        return f"greedy decoding, {tokens}"
    return f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, {tokens}"


GENERATIVE = {
    "mmlu_pro": "r1_mmlu_pro",
    "mmlu": "r1_mmlu or mmlu_generative",
    "ceval": "r1_ceval",
    "gpqa": "r1_gpqa_diamond or gpqa_diamond_cot_zeroshot",
}
"""Beginnings of the names of log-likelihood tasks -> tasks that let the model write."""


def likelihood_maker(engine: Engine, task: str) -> Callable[[], Any]:
    """What makes the engine's `Likelihood`; the torch engine has one.

    Raises:
        LmEvalError: it has none; names the task, the engine, and the task to use instead.
    """
    maker: Callable[[], Any] | None = getattr(engine, "likelihood", None)
    if maker is not None:
        return maker
    variants = (name for start, name in GENERATIVE.items() if task.startswith(start))
    instead = next(variants, "a variant that lets the model write (often called ..._generative)")
    raise LmEvalError(
        f"{task}: compares log-likelihoods of given texts, which the engine "
        f"{engine.identity.kind!r} does not tell; use {instead}, or --engine torch with the "
        "model's weights"
    )

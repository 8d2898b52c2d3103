"""Scores: what a model's samples come to, with every number's noise beside it.

    pass@1    the mean over problems of the share of right samples
    pass@k    the chance that one of k samples is right: 1 - C(m - c, k) / C(m, k) for c right ones
              of m, which is unbiased (M. Chen et al., arXiv:2107.03374, section 2.1)
    cons@k    the chance that the majority's answer is right, votes counted over classes of equal
              answers; a tie among T classes gives the mean over them, as if one were drawn

What counts as what: UNVERIFIABLE is not right, and shown. INFRA_ERROR says nothing of the model:
it is left out of every estimate and shown, and with more than `MAX_INFRA` of it a score is not
final. A reply that was cut off, or holds no final answer, is not right; it casts no vote, so a
problem where no sample has an answer has no majority and counts as 0.

Intervals: `interval.py`.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .. import KitError
from .interval import Estimate, estimate, estimate_with_reruns
from .interval import wilson as wilson
from .outcome import Outcome, by_problem
from .verdict import Verdict

MAX_INFRA = 0.01
"""The share of infrastructure errors above which a score is not final."""

RESAMPLES = 200
"""Draws of j samples per problem for cons@j with j below k; over 30 problems their own error stays
below 0.7 points, and it falls with the root of their number and of the problems'."""

PERCENTILES = (10, 50, 90, 99)

UNDECIDED = frozenset({Verdict.UNVERIFIABLE, Verdict.INFRA_ERROR})


class ScoreError(KitError):
    """There is nothing to make a score of."""


@dataclass(frozen=True, slots=True)
class Score:
    """A share of right answers, in short: what a line of a report has room for.

    Attributes:
        value: the mean over problems of the share of right samples, in [0, 1].
        n: problems counted.
        ci95: the 95 % interval.
        samples: answers per problem; the largest number, where they differ.
        undecided: answers with the verdict UNVERIFIABLE or INFRA_ERROR; they count as not right,
            and are shown. (A `ScoreCard` leaves INFRA_ERROR out instead.)
        truncated: answers cut off at the token limit; they count as not right, and are shown.
    """

    value: float
    n: int
    ci95: tuple[float, float]
    samples: int = 1
    undecided: int = 0
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class Lengths:
    """Completion tokens of some samples: percentiles (the nearest rank, a real length) and most."""

    samples: int
    percentiles: dict[int, int]
    longest: int


@dataclass(frozen=True, slots=True)
class LengthBin:
    """The samples of one quarter of the lengths. Hard problems make long replies: no cause."""

    shortest: int
    longest: int
    samples: int
    right: int
    truncated: int


@dataclass(frozen=True, slots=True)
class ScoreCard:
    """All that is said of a model on some problems.

    Attributes:
        problems: problems with at least one decided sample; the n of every estimate.
        dropped: problems left out because every sample ended in an infrastructure error.
        samples: samples in all, whatever became of them.
        per_problem: the fewest and the most decided samples of a problem.
        right, truncated, unanswered, unverifiable, infra: counts of samples. `unanswered` ones
            were finished, and hold no final answer.
        pass_at_1: None where no sample is decided.
        pass_at: pass@k by k, for powers of two up to the fewest samples of a problem.
        cons_at: cons@k by k: all samples (their largest number, where problems differ), and powers
            of two below, by `RESAMPLES` seeded draws.
        no_cons: why there is no cons@k; empty where there is.
        bounds: pass@1 if everything undecided were wrong, and if it were right.
        lengths: tokens of all decided samples, of the right and of the others.
        by_length: accuracy by quarters of the lengths.
        not_final: why this is not a final score; empty where it is one.
    """

    problems: int
    dropped: int
    samples: int
    per_problem: tuple[int, int]
    right: int
    truncated: int
    unanswered: int
    unverifiable: int
    infra: int
    pass_at_1: Estimate | None
    pass_at: dict[int, Estimate]
    cons_at: dict[int, Estimate]
    no_cons: str
    bounds: tuple[float, float]
    lengths: dict[str, Lengths]
    by_length: tuple[LengthBin, ...]
    not_final: str

    @property
    def is_final(self) -> bool:
        """Whether few enough samples were lost to infrastructure errors."""
        return not self.not_final

    def share(self, count: int) -> float:
        """A count of samples as a share of all."""
        return count / self.samples

    def to_json(self) -> dict[str, Any]:
        """Plain values, for files: keys are text, and nothing is NaN."""
        counts = ("right", "truncated", "unanswered", "unverifiable", "infra")
        return {
            "final": self.is_final,
            "not_final": self.not_final or None,
            "pass@1": None if self.pass_at_1 is None else _plain(self.pass_at_1),
            "problems": self.problems,
            "dropped": self.dropped,
            "samples": self.samples,
            "samples_per_problem": list(self.per_problem),
            "pass@k": {str(k): _plain(each) for k, each in self.pass_at.items()},
            "cons@k": {str(k): _plain(each) for k, each in self.cons_at.items()},
            "no_cons@k": self.no_cons or None,
            "bounds": list(self.bounds),
            "counts": {name: getattr(self, name) for name in counts},
            "shares": {name: self.share(getattr(self, name)) for name in counts},
            "tokens": {
                name: {
                    "samples": each.samples,
                    **{f"p{level}": tokens for level, tokens in each.percentiles.items()},
                    "longest": each.longest,
                }
                for name, each in self.lengths.items()
            },
            "by_length": [
                {**asdict(each), "accuracy": each.right / each.samples} for each in self.by_length
            ],
        }


def pass_at_1(verdicts_by_problem: Mapping[str, Sequence[Verdict]], *, truncated: int = 0) -> Score:
    """The mean over problems of the share of samples that are CORRECT, with its 95 % interval.

    Args:
        verdicts_by_problem: the verdict of every sample, by problem id.
        truncated: how many of the samples were cut off, to be shown.

    Raises:
        ScoreError: no problems, or a problem without samples.
    """
    if not verdicts_by_problem:
        raise ScoreError("a score needs at least one problem, got none")
    for problem_id, verdicts in verdicts_by_problem.items():
        if not verdicts:
            raise ScoreError(f"problem {problem_id!r} has no samples; every problem needs one")
    every = verdicts_by_problem.values()
    counts = [len(verdicts) for verdicts in every]
    shares = [
        sum(verdict is Verdict.CORRECT for verdict in verdicts) / len(verdicts)
        for verdicts in every
    ]
    found = estimate(shares, counts)
    undecided = sum(verdict in UNDECIDED for verdicts in every for verdict in verdicts)
    return Score(found.value, found.n, found.ci95, max(counts), undecided, truncated)


def summarise(outcomes: Sequence[Outcome], *, seed: int = 0) -> ScoreCard:
    """What the outcomes come to.

    Args:
        outcomes: every sample of the evaluation, lost ones included, in any order.
        seed: of the draws behind cons@j with j below k.

    Raises:
        ScoreError: there are no outcomes.
        OutcomeError: a sample is there twice.
    """
    if not outcomes:
        raise ScoreError("a score needs at least one sample, got none")
    groups = by_problem(outcomes)
    decided = [[each for each in group if each.is_decided] for group in groups.values()]
    told = [group for group in decided if group]
    counts = [len(group) for group in told]
    rights = [sum(each.is_correct for each in group) for group in told]
    infra = sum(not each.is_decided for each in outcomes)
    no_cons = _why_no_cons(told)
    flat = [each for group in told for each in group]
    return ScoreCard(
        problems=len(told),
        dropped=len(groups) - len(told),
        samples=len(outcomes),
        per_problem=(min(counts, default=0), max(counts, default=0)),
        right=sum(rights),
        truncated=sum(each.truncated for each in flat),
        unanswered=sum(not each.answered and not each.truncated for each in flat),
        unverifiable=sum(each.verdict is Verdict.UNVERIFIABLE for each in flat),
        infra=infra,
        pass_at_1=estimate_with_reruns(rights, counts) if told else None,
        pass_at=_pass_at(rights, counts),
        cons_at={} if no_cons else _cons_at(told, seed),
        no_cons=no_cons,
        bounds=_bounds(list(groups.values())),
        lengths=_lengths(flat),
        by_length=_by_length(flat),
        not_final=_why_not_final(infra, len(outcomes)),
    )


def summarise_by_source(outcomes: Sequence[Outcome], *, seed: int = 0) -> dict[str, ScoreCard]:
    """A score card for every source, by its name."""
    parts: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        parts.setdefault(outcome.source, []).append(outcome)
    return {source: summarise(part, seed=seed) for source, part in sorted(parts.items())}


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that k of `samples` samples, drawn without replacement, hold a right one.

    Unbiased for the chance that one of k new samples is right; 1 <= k <= samples.
    """
    assert 1 <= k <= samples, f"k={k} of {samples} samples"
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def cons_credit(votes: Mapping[str, int], rights: Mapping[str, int]) -> float:
    """What the majority's answer is worth: 1 if right, 0 if wrong or if nobody voted.

    A tie gives the mean over the tied classes. A class counts by the share of its members that were
    judged right: 0 or 1, unless the judge said different things of equal answers.

    Args:
        votes: how many samples gave an answer of each class.
        rights: how many of those were judged right; a class that is absent has none.
    """
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [rights.get(name, 0) / count for name, count in votes.items() if count == most]
    return math.fsum(tied) / len(tied)


def _plain(found: Estimate) -> dict[str, Any]:
    values = asdict(found)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def _powers(most: int, *, first: int = 1) -> list[int]:
    """Powers of two from `first`, a power of two itself, up to `most`."""
    return [k for k in (first << shift for shift in range(most.bit_length())) if k <= most]


def _pass_at(rights: Sequence[int], counts: Sequence[int]) -> dict[int, Estimate]:
    """pass@k for every power of two that all problems have the samples for."""
    found = {}
    for k in _powers(min(counts, default=0)):
        shares = [pass_at_k(m, c, k) for m, c in zip(counts, rights, strict=True)]
        found[k] = estimate(shares, counts)
    return found


def _why_no_cons(groups: Sequence[Sequence[Outcome]]) -> str:
    """Why votes cannot be counted; empty where they can."""
    if not groups:
        return "no sample is decided"
    if max(map(len, groups)) == 1:
        return "a majority needs more than one sample per problem"
    answered = [each for group in groups for each in group if each.answered]
    without = sum(each.answer_class is None for each in answered)
    if without:
        return f"{without} of {len(answered)} answers belong to no class of equal answers"
    return ""


def _cons_at(groups: Sequence[Sequence[Outcome]], seed: int) -> dict[int, Estimate]:
    """cons@k over all samples, and over draws of fewer."""
    counts = [len(group) for group in groups]
    ballots = [_ballot(group) for group in groups]
    # With two voters a majority is one answer or a tie: cons@2 is pass@1 but for empty votes.
    below = [k for k in _powers(min(counts), first=4) if k < max(counts)]
    found = {k: estimate(_drawn_credits(ballots, counts, k, seed), counts) for k in below}
    credits = [cons_credit(votes, rights) for votes, rights in ballots]
    return {**found, max(counts): estimate(credits, counts)}


def _ballot(group: Sequence[Outcome]) -> tuple[Counter[str], Counter[str]]:
    """Votes by class, and right ones among them."""
    voters = [(each.answer_class, each.is_correct) for each in group if each.answer_class]
    return (
        Counter(name for name, _ in voters if name),
        Counter(name for name, is_right in voters if name and is_right),
    )


def _drawn_credits(
    ballots: Sequence[tuple[Counter[str], Counter[str]]], counts: Sequence[int], k: int, seed: int
) -> list[float]:
    """The mean credit of k voters drawn from each problem's samples, over `RESAMPLES` draws."""
    import numpy as np

    rng = np.random.default_rng([seed, k])
    credits = []
    for (votes, rights), count in zip(ballots, counts, strict=True):
        if not votes:
            credits.append(0.0)
            continue
        pool = [*votes.values(), count - votes.total()]
        worth = np.array([rights[name] / number for name, number in votes.items()])
        drawn_RC = rng.multivariate_hypergeometric(pool, k, size=RESAMPLES)[:, :-1]
        most_R = drawn_RC.max(axis=1)
        tied_RC = (drawn_RC == most_R[:, None]) & (most_R[:, None] > 0)
        credit_R = (tied_RC * worth).sum(axis=1) / np.maximum(tied_RC.sum(axis=1), 1)
        credits.append(float(credit_R.mean()))
    return credits


def _bounds(groups: Sequence[Sequence[Outcome]]) -> tuple[float, float]:
    """pass@1 if everything undecided were wrong, and if it were right."""
    low, high = [], []
    for group in groups:
        right = sum(each.is_correct for each in group)
        open_ = sum(each.verdict in UNDECIDED for each in group)
        low.append(right / len(group))
        high.append((right + open_) / len(group))
    return math.fsum(low) / len(low), math.fsum(high) / len(high)


def _why_not_final(infra: int, samples: int) -> str:
    """Why a score is not final; empty where it is."""
    if infra / samples <= MAX_INFRA:
        return ""
    return (
        f"{infra:,} of {samples:,} samples ({100 * infra / samples:.1f} %) ended in infrastructure "
        f"errors, over {100 * MAX_INFRA:g} %; the same command asks for them again"
    )


def _lengths(outcomes: Sequence[Outcome]) -> dict[str, Lengths]:
    """Token lengths of all, of the right and of the other samples; absent where there are none."""
    parts = {
        "all": [each.completion_tokens for each in outcomes],
        "right": [each.completion_tokens for each in outcomes if each.is_correct],
        "not_right": [each.completion_tokens for each in outcomes if not each.is_correct],
    }
    return {
        name: Lengths(
            len(tokens), {level: _percentile(tokens, level) for level in PERCENTILES}, max(tokens)
        )
        for name, tokens in parts.items()
        if tokens
    }


def _percentile(tokens: Sequence[int], level: int) -> int:
    """The nearest rank: the least length that at least `level` % of all do not exceed."""
    return sorted(tokens)[max(0, math.ceil(level * len(tokens) / 100) - 1)]


def _by_length(outcomes: Sequence[Outcome]) -> tuple[LengthBin, ...]:
    """Accuracy by quarters of the lengths; equal lengths stay in one bin, so bins may be fewer."""
    tokens = [each.completion_tokens for each in outcomes]
    edges = sorted({_percentile(tokens, level) for level in (25, 50, 75, 100)}) if tokens else []
    bins, above = [], -1
    for edge in edges:
        part = [each for each in outcomes if above < each.completion_tokens <= edge]
        lengths = [each.completion_tokens for each in part]
        bins.append(
            LengthBin(
                shortest=min(lengths),
                longest=max(lengths),
                samples=len(part),
                right=sum(each.is_correct for each in part),
                truncated=sum(each.truncated for each in part),
            )
        )
        above = edge
    return tuple(bins)

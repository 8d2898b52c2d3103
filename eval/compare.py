"""Two finished evaluations, read back and compared: is one model better, or is it noise?

Reads   A/answers.jsonl  A/scores.json  B/answers.jsonl  B/scores.json

Problems are matched by id; what only one side was asked is left out, counted and named. Samples
that ended in an infrastructure error are left out and counted; a problem without any other sample
on one side is dropped and counted, and with more than `MAX_INFRA` of them on a side nothing is
called. What the two sides did differently (rows, prompt, sampling, judge) is a warning.

The statistics are in `paired.py`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import KitError
from .outcome import Answers, Outcome, by_problem, read_answers
from .paired import Call, Difference, Power, Tally, call, paired, power
from .provenance import differences

SCORES = "scores.json"

Groups = Mapping[str, Sequence[Outcome]]
"""Outcomes by the id of their problem."""


class CompareError(KitError):
    """Two evaluations cannot be compared."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A finished evaluation, read back.

    Attributes:
        name: its folder.
        answers: its samples.
        model: what answered; None where that is not recorded.
        provenance: what `Provenance.to_json` gave; None where it is not recorded.
    """

    name: str
    answers: Answers
    model: str | None
    provenance: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Side:
    """One evaluation, as far as it is compared.

    Attributes:
        name: its folder.
        model: what answered; None where that is not recorded.
        pass_at_1: over the problems that are compared.
        samples: decided samples of those problems.
        per_problem: the fewest and the most decided samples of a problem.
        infra: samples of the common problems that ended in an infrastructure error.
        infra_share: of all samples of the common problems.
        alone: problems that the other side was not asked.
    """

    name: str
    model: str | None
    pass_at_1: float
    samples: int
    per_problem: tuple[int, int]
    infra: int
    infra_share: float
    alone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that is said of two evaluations.

    Attributes:
        a, b: the two sides.
        difference: A minus B.
        power: what would settle a difference this large.
        call: what is said of it.
        dropped: common problems without a decided sample on one side.
        warnings: what a reader must know before believing the call.
    """

    a: Side
    b: Side
    difference: Difference
    power: Power
    call: Call
    dropped: int
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without NaN."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return values


def compare(a: Path, b: Path) -> Comparison:
    """Compare two folders that `r1kit eval run` has written.

    Raises:
        CompareError: a folder holds no finished evaluation, or they share no problem.
        OutcomeError: a file of answers cannot be read.
    """
    return compare_evaluated(read_evaluated(a), read_evaluated(b))


def read_evaluated(folder: Path) -> Evaluated:
    """Read a folder that `r1kit eval run` has written.

    Raises:
        CompareError, OutcomeError: as `compare` does.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise CompareError(f"{folder}: {what}; name one that `r1kit eval run` has written")
    answers = read_answers(folder)
    scores = _read_scores(folder / SCORES)
    model, provenance = scores.get("model"), scores.get("provenance")
    if provenance is not None and not isinstance(provenance, dict):
        kind = type(provenance).__name__
        raise CompareError(f"{folder / SCORES}: provenance must be an object, got {kind}")
    return Evaluated(str(folder), answers, None if model is None else str(model), provenance)


def compare_evaluated(one: Evaluated, other: Evaluated) -> Comparison:
    """`compare`, of what has been read already."""
    groups_a, groups_b = _grouped(one), _grouped(other)
    common = [name for name in groups_a if name in groups_b]
    if not common:
        raise CompareError(
            f"{one.name}, {other.name}: they have no problem in common ({len(groups_a):,} such as "
            f"{next(iter(groups_a))!r}, and {len(groups_b):,} such as {next(iter(groups_b))!r}); "
            "compare two evaluations of one suite"
        )
    told = [name for name in common if _is_decided(groups_a[name]) and _is_decided(groups_b[name])]
    if not told:
        raise CompareError(
            f"{one.name}, {other.name}: none of the {len(common):,} common problems has a decided "
            "sample on both sides; run the evaluations again, they ask for what is missing"
        )
    tally_a, tally_b = _tally(groups_a, told), _tally(groups_b, told)
    side_a = _side(one, groups_a, common, tally_a)
    side_b = _side(other, groups_b, common, tally_b)
    difference = paired(tally_a, tally_b)
    return Comparison(
        a=side_a,
        b=side_b,
        difference=difference,
        power=power(difference, tally_a, tally_b),
        call=call(difference, max(side_a.infra_share, side_b.infra_share)),
        dropped=len(common) - len(told),
        warnings=(
            *_side_warnings(side_a, side_b),
            *_gold_warnings(one, other),
            *_provenance_warnings(one, other),
        ),
    )


def _read_scores(file: Path) -> dict[str, Any]:
    """The scores, which are written last: where they are missing, the evaluation is not done."""
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CompareError(
            f"{file}: no such file: the evaluation has not finished; run it again, it asks nothing "
            "twice"
        ) from error
    except (OSError, ValueError) as error:
        raise CompareError(f"{file}: cannot be read: {error}") from error
    if not isinstance(scores, dict):
        raise CompareError(f"{file}: expected an object, found {type(scores).__name__}")
    return scores


def _grouped(evaluated: Evaluated) -> dict[str, list[Outcome]]:
    """Outcomes by the id of their problem: the same problem may be asked in suites of two names."""
    groups = by_problem(evaluated.answers.outcomes)
    found = {key.problem_id: group for key, group in groups.items()}
    if len(found) < len(groups):
        raise CompareError(
            f"{evaluated.name}: it holds several suites that share ids; compare folders of one "
            "suite each"
        )
    return found


def _is_decided(group: Sequence[Outcome]) -> bool:
    return any(each.is_decided for each in group)


def _tally(groups: Groups, names: Sequence[str]) -> Tally:
    told = [[each for each in groups[name] if each.is_decided] for name in names]
    return Tally(
        rights=tuple(sum(each.is_correct for each in group) for group in told),
        counts=tuple(map(len, told)),
    )


def _side(evaluated: Evaluated, groups: Groups, common: Sequence[str], tally: Tally) -> Side:
    samples = [each for name in common for each in groups[name]]
    infra = sum(not each.is_decided for each in samples)
    shared = set(common)
    return Side(
        name=evaluated.name,
        model=evaluated.model,
        pass_at_1=math.fsum(tally.shares) / len(tally.counts),
        samples=sum(tally.counts),
        per_problem=(min(tally.counts), max(tally.counts)),
        infra=infra,
        infra_share=infra / len(samples),
        alone=tuple(name for name in groups if name not in shared),
    )


def _side_warnings(*sides: Side) -> list[str]:
    """What is left out of each side."""
    found = [
        f"{side.name}: {_problems(len(side.alone))} only here and left out: {_few(side.alone)}"
        for side in sides
        if side.alone
    ]
    return found + [
        f"{side.name}: {side.infra:,} of its samples ({100 * side.infra_share:.1f} %) ended in "
        "infrastructure errors and are left out"
        for side in sides
        if side.infra
    ]


def _gold_warnings(one: Evaluated, other: Evaluated) -> list[str]:
    """Problems of one id that are not judged by the same right answer."""
    first, second = (
        {key.problem_id: gold for key, gold in each.answers.golds.items()} for each in (one, other)
    )
    differ = [name for name, gold in first.items() if name in second and gold != second[name]]
    if not differ:
        return []
    return [f"{_problems(len(differ))} judged by different right answers: {_few(differ)}"]


def _provenance_warnings(one: Evaluated, other: Evaluated) -> list[str]:
    """What was done differently on the two sides."""
    if one.provenance is None or other.provenance is None:
        names = " and ".join(each.name for each in (one, other) if each.provenance is None)
        return [
            f"{names}: no provenance is recorded, so nothing tells whether both were asked and "
            "judged alike"
        ]
    said = differences(one.provenance, other.provenance)
    return [f"NOT ASKED ALIKE: {each}" for each in said]


def _problems(count: int) -> str:
    return "1 problem is" if count == 1 else f"{count:,} problems are"


def _few(names: Sequence[str]) -> str:
    """The first few names."""
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest:,} more" if rest > 0 else "")

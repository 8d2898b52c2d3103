"""The verifier against its calibration set: pairs whose verdict the policy table fixes.

`calibration.jsonl` holds answers of every kind, right ones in unlike spellings and wrong ones that
are easily taken for right. A pair fails if its verdict is neither the expected one nor one that the
pair allows. Precision and recall are those of the verdict CORRECT.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..verdict import Verdict
from .pairs import Judged, judge_pairs, percentile, read_pairs

CALIBRATION = Path(__file__).with_name("calibration.jsonl")


@dataclass(frozen=True, slots=True)
class Counts:
    """How a group of pairs was judged.

    Attributes:
        pairs: how many there are.
        positives: those that are expected to be found correct.
        found: positives that were found correct.
        false_positives: other pairs that were found correct.
        unverifiable: pairs that could not be decided, whether or not that was expected.
        failed: pairs whose verdict is a mistake.
        p50_ms: half of the pairs took no longer.
        p99_ms: 99 % of the pairs took no longer.
        total_s: all pairs together.
    """

    pairs: int
    positives: int
    found: int
    false_positives: int
    unverifiable: int
    failed: int
    p50_ms: float
    p99_ms: float
    total_s: float

    @classmethod
    def of(cls, judged: Sequence[Judged]) -> Self:
        """Count a group."""
        correct = [each for each in judged if each.judgement.verdict is Verdict.CORRECT]
        found = sum(is_positive(each) for each in correct)
        ms = [each.ms for each in judged]
        return cls(
            pairs=len(judged),
            positives=sum(map(is_positive, judged)),
            found=found,
            false_positives=len(correct) - found,
            unverifiable=sum(e.judgement.verdict is Verdict.UNVERIFIABLE for e in judged),
            failed=sum(each.agrees is False for each in judged),
            p50_ms=percentile(ms, 50),
            p99_ms=percentile(ms, 99),
            total_s=sum(ms) / 1000,
        )

    @property
    def precision(self) -> float:
        """The share of expected-correct pairs among those found correct; 1 where there are none."""
        said = self.found + self.false_positives
        return self.found / said if said else 1.0

    @property
    def recall(self) -> float:
        """The share of the expected-correct pairs that were found; 1 where there are none."""
        return self.found / self.positives if self.positives else 1.0

    def facts(self) -> dict[str, Any]:
        """The counts for programs."""
        names = [name for name in self.__slots__ if not name.endswith(("_ms", "_s"))]
        return {
            **{name: getattr(self, name) for name in names},
            "precision": self.precision,
            "recall": self.recall,
            "p50_ms": round(self.p50_ms, 3),
            "p99_ms": round(self.p99_ms, 3),
            "total_s": round(self.total_s, 3),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What came of the self-test.

    Attributes:
        total: all pairs.
        by_kind: the pairs of one kind of answer.
        failures: the pairs whose verdict is a mistake.
    """

    total: Counts
    by_kind: dict[str, Counts]
    failures: tuple[Judged, ...]

    @property
    def passed(self) -> bool:
        """Whether no verdict is a mistake."""
        return not self.failures

    def facts(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "passed": self.passed,
            **self.total.facts(),
            "by_kind": {kind: counts.facts() for kind, counts in self.by_kind.items()},
            "failures": [
                {
                    **each.pair.row,
                    "verdict": each.judgement.verdict,
                    "rule": each.judgement.step,
                    "reason": each.judgement.reason,
                }
                for each in self.failures
            ],
        }


def is_positive(judged: Judged) -> bool:
    """Whether a pair is expected to be found correct."""
    return judged.pair.right is not None and Verdict.CORRECT in judged.pair.right


def report(judged: Iterable[Judged]) -> Report:
    """Sum up judged pairs, in all and by the field `kind` of their lines."""
    judged = list(judged)
    kinds = dict.fromkeys(str(each.pair.row.get("kind", "")) for each in judged)
    return Report(
        Counts.of(judged),
        {k: Counts.of([e for e in judged if e.pair.row.get("kind", "") == k]) for k in kinds},
        tuple(each for each in judged if each.agrees is False),
    )


def run(*, workers: int = 1, on_judged: Callable[[], object] = lambda: None) -> Report:
    """Judge the calibration set."""
    return report(judge_pairs(read_pairs(CALIBRATION), workers=workers, on_judged=on_judged))

"""What a run found out: all that its table, its report and its `run.json` state, and nothing else.

The runner gathers these facts from the stages' markers, the report only lays them out. They are
stored as JSON, so that a later run can print the same table without repeating any work.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..eval.score import Score
from .workspace import write_text


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's score on a set of problems, as a whole and by source."""

    score: Score
    by_source: Mapping[str, Score] = field(default_factory=dict)
    suite: str = ""
    """Which problems: a suite's name, a file, or `sampled problems`."""


@dataclass(frozen=True, slots=True)
class FunnelStep:
    """One step of the waterfall from sampled to kept.

    Attributes:
        stage: the stage's name; the first step is `sample` and has removed nothing.
        left: traces left after it.
        removed: how many this step took out, by reason, the most frequent first.
    """

    stage: str
    left: int
    removed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """Everything that the terminal table and `report.html` show.

    Attributes:
        name: the run's name.
        scores: `teacher`, `student_before` and `student_after` on the held-out suite, and
            `teacher_on_problems` on the problems that were sampled. A score that was not measured
            is absent.
        funnel: the waterfall, in the order of the stages.
        removed_by_source: reason -> source -> traces removed.
        removed_by_level: reason -> level -> traces removed.
        lengths: outcome (`correct`, `wrong`, `truncated`, ...) -> completion tokens of each trace.
        stages: stage -> seconds that it took; a stage that was skipped is absent.
        tokens: `prompt` and `completion` tokens sampled, `trained` tokens seen in training.
        cost: what the teacher's tokens cost, in words, such as `0 (local)`.
        kept: traces in the data set.
        sampled: traces sampled.
        counts: reason -> traces removed for it, over all stages.
        settings: the recipe as it ran.
        environment: versions, hardware, commit, seeds, peak memory.
        train_metrics: the training's metrics, or None where nothing was trained.
        notes: sentences that a reader must see, such as what was skipped and why.
        sources: source -> traces sampled.
    """

    name: str
    scores: Mapping[str, Scored]
    funnel: tuple[FunnelStep, ...]
    lengths: Mapping[str, list[int]]
    stages: Mapping[str, float]
    tokens: Mapping[str, int]
    cost: str
    kept: int
    sampled: int
    counts: Mapping[str, int]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    train_metrics: Path | None = None
    notes: tuple[str, ...] = ()
    sources: Mapping[str, int] = field(default_factory=dict)
    removed_by_source: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    removed_by_level: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the data set's card states about where its rows come from.

    Attributes:
        name: the run's name.
        teacher: engine kind, model and revision, in words.
        settings: the recipe as it ran.
        funnel: the waterfall that led to the rows.
        sources: source -> rows sampled.
        version: of r1kit.
    """

    name: str
    teacher: str
    settings: Mapping[str, Any]
    funnel: tuple[FunnelStep, ...]
    sources: Mapping[str, int]
    version: str


def save(facts: ReportFacts, path: Path) -> None:
    """Store facts as JSON, whole or not at all."""
    write_text(path, [TypeAdapter(ReportFacts).dump_json(facts).decode(), "\n"])


def load(path: Path) -> ReportFacts:
    """The facts that `save` stored."""
    return TypeAdapter(ReportFacts).validate_json(path.read_bytes())

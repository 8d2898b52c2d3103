"""R1's published table, how each of its rows is run here or why it is not, and what was measured.

The table is data (`r1_table.yaml`); what was measured is read from the folders that `r1kit eval
run` leaves. Published numbers are percentages, except ratings; measured shares are shown likewise.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePath
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .. import KitError

DATA = Path(__file__).with_name("r1_table.yaml")
SCORES = "scores.json"
EQUAL_MEASURES = {"acc": ("pass@1",), "pass@1": ("acc",)}
"""Names of one thing: lm-eval's share of right answers is the mean over questions and samples."""


class TableError(KitError):
    """The folder of measured scores cannot be read."""


class Benchmark(BaseModel):
    """Where a published number is found among measured ones, and how it is measured.

    Exactly one of `run`, a command, and `why_not` is given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    suites: tuple[str, ...] = ()
    measure: str = ""
    unit: Literal["%", "points"] = "%"
    run: str | None = None
    why_not: str | None = None
    note: str = Field("", description="what running it needs besides")

    @model_validator(mode="after")
    def _is_run_or_says_why_not(self) -> Self:
        if (self.run is None) == (self.why_not is None):
            raise ValueError("needs either run or why_not")
        if self.run is not None and not (self.suites and self.measure):
            raise ValueError("what is run needs suites and a measure")
        return self

    @property
    def how(self) -> str:
        """The command, or why there is none."""
        if self.run is None:
            return f"not run here: {self.why_not}"
        return self.run + (f" ({self.note})" if self.note else "")


class Row(Benchmark):
    """One row of the models' table."""

    category: str
    benchmark: str
    metric: str
    published: tuple[float | None, ...]

    @property
    def title(self) -> str:
        """Benchmark and metric, in DeepSeek's words."""
        return f"{self.benchmark} ({self.metric})"


class Column(BaseModel):
    """One model that DeepSeek compared with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    short: str


class StudentColumn(Benchmark):
    """One benchmark that the students were measured on."""

    name: str
    short: str


class Student(BaseModel):
    """One row of the students' table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    published: tuple[float | None, ...]


class Models(BaseModel):
    """The table of R1 and the models that it was compared with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


class Students(BaseModel):
    """The table of the distilled students."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[StudentColumn, ...]
    rows: tuple[Student, ...]


class R1Table(BaseModel):
    """Both tables."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    sampling: str
    models: Models
    students: Students

    @model_validator(mode="after")
    def _rows_are_complete(self) -> Self:
        for table in (self.models, self.students):
            for row in table.rows:
                if len(row.published) != len(table.columns):
                    raise ValueError(f"{row}: {len(table.columns)} numbers are needed")
        return self


@dataclass(frozen=True, slots=True)
class Value:
    """One measured number.

    Attributes:
        value: a share in [0, 1], or points.
        ci95: its 95 % interval; None where none was written.
    """

    value: float
    ci95: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One suite's scores of one model.

    Attributes:
        names: what the suite may be called: its name, and parts of it where it is a path.
        model: who answered.
        values: by name: `pass@1`, `cons@64`, `acc`, `f1`, `rating`.
        n: questions scored; None where the file does not say.
        samples: answers per question; None where the file does not say.
        folder: where it stands.
        written: when, in seconds since 1970; of two scores, the newer one is shown.
    """

    names: frozenset[str]
    model: str
    values: Mapping[str, Value]
    n: int | None
    samples: int | None
    folder: Path
    written: float

    def value(self, benchmark: Benchmark) -> Value | None:
        """What it says of a benchmark; None where it is another suite's, or says nothing."""
        if not self.names & set(benchmark.suites):
            return None
        names = (benchmark.measure, *EQUAL_MEASURES.get(benchmark.measure, ()))
        return next((self.values[name] for name in names if name in self.values), None)


def load_table() -> R1Table:
    """What was published, and how it is run here."""
    return R1Table.model_validate(yaml.safe_load(DATA.read_text(encoding="utf-8")))


def read_runs(folder: Path) -> tuple[list[Measured], list[str]]:
    """The measured scores in a folder of evaluations, newest first.

    Returns:
        measured: one for every `scores.json` below the folder that holds a final score.
        notices: which files were left out, and why.

    Raises:
        TableError: the folder cannot be read.
    """
    if not folder.is_dir():
        raise TableError(f"--runs {folder}: no such directory; `r1kit eval run` makes runs/eval")
    measured, notices = [], []
    for path in sorted(folder.rglob(SCORES)):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            notices.append(f"{path}: left out: cannot be read ({error})")
            continue
        found, why = measured_of(facts, path)
        measured += found
        notices += [f"{path}: left out: {reason}" for reason in why]
    return sorted(measured, key=lambda each: -each.written), notices


def measured_of(facts: Any, path: Path) -> tuple[list[Measured], list[str]]:
    """What one scores.json says, whichever version of `r1kit eval run` wrote it.

    It has had three forms, all with `suite` and `model`: the numbers in `score` by their names; in
    `score` as one `metric` with its `value`; in `card`, each number with its interval, and
    `final`. Several suites stand in `suites`, by name.

    Returns:
        The scores, and why some are left out.
    """
    if not isinstance(facts, dict):
        return [], ["it holds no scores"]
    if isinstance(several := facts.get("suites"), dict):
        parts = [measured_of(part, path) for part in several.values()]
        return [m for found, _ in parts for m in found], [w for _, why in parts for w in why]
    card = facts.get("card") or facts.get("score")
    if not isinstance(card, dict) or "suite" not in facts or "model" not in facts:
        return [], ["it names no suite, no model or no score"]
    if not facts.get("is_final", True) or not card.get("final", True):
        return [], ["its score is not final; run the same command again"]
    values = dict(_values(card))
    if not values:
        return [], ["it holds no number that is known here"]
    measured = Measured(
        _names(str(facts["suite"])),
        str(facts["model"]),
        values,
        _count(card.get("problems", card.get("n"))),
        _count(card.get("samples_per_problem", card.get("samples"))),
        path.parent,
        path.stat().st_mtime,
    )
    return [measured], []


def _values(card: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    """Every number of a score that a row of the table may mean."""
    if "metric" in card:
        yield from _value(str(card["metric"]), card)
    for name in ("pass@1", "rating", "percentile"):
        found = card.get(name)
        if isinstance(found, dict):
            yield from _value(name, found)
        elif name in card:
            yield from _value(name, {"value": found, "ci95": card.get("ci95")})
    votes = card.get("cons@k")
    for count, found in votes.items() if isinstance(votes, dict) else ():
        if isinstance(found, dict):
            yield from _value(f"cons@{count}", found)


def _value(name: str, found: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
    value, ends = found.get("value"), found.get("ci95")
    if isinstance(value, int | float):
        yield name, Value(float(value), (ends[0], ends[1]) if ends else None)


def _count(found: Any) -> int | None:
    """A number of questions or samples; of the fewest and the most, the fewest."""
    if isinstance(found, list) and found:
        found = found[0]
    return found if isinstance(found, int) else None


def _names(suite: str) -> frozenset[str]:
    """What a suite may be called: `lm_eval:r1_mmlu` is r1_mmlu, `math500/test.jsonl` math500."""
    path = PurePath(suite.removeprefix("lm_eval:"))
    stem = path.name.partition(".")[0]
    return frozenset({str(path), stem, *([path.parent.name] if path.suffix else [])})


def models_measured(
    benchmarks: Sequence[Benchmark], measured: Sequence[Measured]
) -> dict[str, list[Measured | None]]:
    """Model -> for each benchmark the newest score that says something of it, or None.

    Models of which no benchmark is measured are left out.
    """
    found: dict[str, list[Measured | None]] = {}
    for model in dict.fromkeys(each.model for each in measured):
        own = [each for each in measured if each.model == model]
        row = [
            next((each for each in own if each.value(benchmark) is not None), None)
            for benchmark in benchmarks
        ]
        if any(row):
            found[model] = row
    return found


def spell(value: Value, unit: str) -> str:
    """A measured number as the table shows it, with its interval."""
    scale, digits = (100, 1) if unit == "%" else (1, 0)
    shown = f"{scale * value.value:.{digits}f}"
    if value.ci95 is None:
        return shown
    low, high = (f"{scale * end:.{digits}f}" for end in value.ci95)
    return f"{shown} ({low} to {high})"


def spell_size(measured: Measured) -> str:
    """How much a score rests on: `n 198 x 8`."""
    if measured.n is None:
        return ""
    return f"n {measured.n:,}" + (f" x {measured.samples}" if measured.samples else "")


def facts_of(table: R1Table, measured: Sequence[Measured]) -> dict[str, Any]:
    """Both tables for programs."""
    rows = table.models.rows
    beside = models_measured(rows, measured)
    columns = table.students.columns
    own = models_measured(columns, measured)
    return {
        "source": table.source,
        "models": [
            {
                **row.model_dump(include={"category", "benchmark", "metric", "unit"}),
                "published": {
                    column.name: value
                    for column, value in zip_longest(table.models.columns, row.published)
                },
                "run": row.run,
                "why_not": row.why_not,
                "measured": {
                    model: _plain(found[place], row)
                    for model, found in beside.items()
                    if found[place]
                },
            }
            for place, row in enumerate(rows)
        ],
        "students": {
            "published": {
                student.model: dict(
                    zip((column.name for column in columns), student.published, strict=True)
                )
                for student in table.students.rows
            },
            "measured": {
                model: {
                    column.name: _plain(each, column)
                    for column, each in zip(columns, found, strict=True)
                    if each
                }
                for model, found in own.items()
            },
            "run": {column.name: column.run for column in columns},
            "why_not": {column.name: column.why_not for column in columns if column.why_not},
        },
    }


def _plain(measured: Measured | None, benchmark: Benchmark) -> dict[str, Any]:
    assert measured is not None
    value = measured.value(benchmark)
    assert value is not None
    return {
        "value": value.value,
        "ci95": list(value.ci95) if value.ci95 else None,
        "n": measured.n,
        "samples": measured.samples,
        "folder": str(measured.folder),
    }

"""Report stage: what a run found out, as a table for the terminal and as one file to pass on.

Reads   the run's facts, a few traces to show, and the training's metrics where there are any
Writes  report.html     self-contained: no script, nothing loaded; appears whole

All text of models and problem files is escaped, and a content security policy forbids scripts and
loading should an escape ever be missed. The same facts give the same bytes.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from shlex import quote
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..eval.score import Score
from ..eval.verdict import Verdict
from . import phrases
from .charts import ScoreChart, curve, histograms, score_chart
from .facts import ReportFacts, Scored
from .phrases import count, in_order, name_of, short_sources, yaml_text
from .showcase import Shown
from .terminal import terminal_table

__all__ = ["html", "terminal_table", "write_report"]

BAR_HEIGHT = 52
CURVE_HEIGHT = 130
"""Units of height of a histogram and of the training curve; charts are 400 units wide."""


def write_report(run_dir: Path, facts: ReportFacts, examples: Sequence[Shown] = ()) -> Path:
    """Write `report.html` into `run_dir`, replacing an earlier one, and return its path.

    Args:
        facts: all that the report states.
        examples: traces to show, from `showcase.showcase`.
    """
    path = run_dir / "report.html"
    partial = path.with_name(f"{path.name}.partial")
    text = html(run_dir, facts, examples)
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def html(run_dir: Path, facts: ReportFacts, examples: Sequence[Shown] = ()) -> str:
    """The report's text."""
    lengths = {name: facts.lengths[name] for name in sorted(facts.lengths, key=_outcome_order)}
    bars, ticks = histograms(lengths, height=BAR_HEIGHT)
    points, unread = read_metrics(facts.train_metrics)
    css = (resources.files(__package__) / "templates" / "report.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            facts=facts,
            css=Markup(css),  # ours, not a model's
            lead=phrases.lead(facts),
            scores={key: facts.scores[key] for key in in_order(facts.scores)},
            names={key: name_of(key) for key in facts.scores},
            by_source=_by_source(facts.scores),
            removed=_removed_tables(facts),
            histograms=bars,
            length_ticks=ticks,
            bar_height=BAR_HEIGHT,
            total_seconds=sum(facts.stages.values()) or 1.0,
            tokens=_token_lines(facts),
            curve=curve(points, height=CURVE_HEIGHT),
            curve_note=unread,
            examples=_by_reason(examples),
            reproduce=_reproduce(run_dir, facts),
            environment=list(_flat(facts.environment)),
            settings=yaml_text(facts.settings),
        )
    )


def read_metrics(path: Path | None) -> tuple[list[tuple[float, float]], str]:
    """Step and loss of every line of `metrics.jsonl`, and a sentence on what could not be read.

    A training that was killed may leave half a line; that hides nothing else.
    """
    if path is None:
        return [], ""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        return [], f"The training's metrics cannot be read: {error.strerror}."
    points, broken = [], 0
    for line in lines:
        try:
            row = json.loads(line)
            point = float(row["step"]), float(row["loss"])
        except (ValueError, TypeError, KeyError):
            broken += 1
            continue
        if math.isfinite(point[1]):
            points.append(point)
        else:
            broken += 1
    note = f"{count(broken)} of {count(len(lines))} lines of the metrics hold no step and loss."
    return points, note if broken else ""


def _environment() -> Environment:
    """Where templates come from and how they write numbers; everything is escaped."""
    environment = Environment(
        loader=PackageLoader(__package__ or "", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("share", "count", "duration", "words", "clean", "middle_out", "shorten"):
        environment.filters[name] = getattr(phrases, name)
    return environment


@dataclass(frozen=True, slots=True)
class SourceGroup:
    """The scores of the models that were measured on the same problems, by source.

    Attributes:
        names: key of a model -> its name.
        rows: source -> key of a model -> score.
        chart: the same, and the overall score as the first row.
    """

    suite: str
    names: Mapping[str, str]
    rows: Mapping[str, Mapping[str, Score]]
    chart: ScoreChart


def _by_source(scores: Mapping[str, Scored]) -> list[SourceGroup]:
    """One group per suite that has scores by source."""
    suites: dict[str, list[str]] = {}
    for key in in_order(scores):
        suites.setdefault(scores[key].suite, []).append(key)
    groups = []
    for suite, keys in suites.items():
        sources = list(dict.fromkeys(name for key in keys for name in scores[key].by_source))
        rows = {
            source: {key: s for key in keys if (s := scores[key].by_source.get(source)) is not None}
            for source in sources
        }
        overall = {"all": {key: scores[key].score for key in keys}}
        short = short_sources(sources)
        chart = score_chart(overall | {short[name]: row for name, row in rows.items()})
        if sources:
            groups.append(SourceGroup(suite, {key: name_of(key) for key in keys}, rows, chart))
    return groups


@dataclass(frozen=True, slots=True)
class RemovedTable:
    """Traces removed: `counts` is reason -> name -> traces; `totals` is name -> traces sampled."""

    reasons: Sequence[str]
    names: Sequence[str]
    counts: Mapping[str, Mapping[str, int]]
    totals: Mapping[str, int]


def _removed_tables(facts: ReportFacts) -> list[tuple[str, RemovedTable]]:
    """What was removed by source, and by level; a table that would be empty is left out."""
    tables = []
    no_totals: Mapping[str, int] = {}
    for title, counts, totals in (
        ("source", facts.removed_by_source, facts.sources),
        ("level", facts.removed_by_level, no_totals),
    ):
        names = sorted({name for each in counts.values() for name in each} | set(totals))
        if counts and any(names):
            tables.append((title, RemovedTable(list(counts), names, counts, totals)))
    return tables


def _outcome_order(name: str) -> tuple[int, str]:
    """The verdicts in their order, then every other outcome by name."""
    verdicts = [verdict.value for verdict in Verdict]
    return (verdicts.index(name) if name in verdicts else len(verdicts)), name


def _token_lines(facts: ReportFacts) -> dict[str, str]:
    """What the tokens came to, in words."""
    lines = {
        f"{phrases.words(kind).capitalize()} tokens": count(number)
        for kind, number in facts.tokens.items()
    }
    written = facts.tokens.get("completion", 0)
    if written and facts.kept:
        lines["Completion tokens per kept trace"] = count(written / facts.kept)
    return lines


def _by_reason(examples: Sequence[Shown]) -> dict[str, list[Shown]]:
    """Reason -> traces, in the order in which they came."""
    groups: dict[str, list[Shown]] = {}
    for shown in examples:
        groups.setdefault(shown.reason, []).append(shown)
    return groups


def _reproduce(run_dir: Path, facts: ReportFacts) -> dict[str, Any]:
    """The commands that repeat this run beside it, from its own settings."""
    where = f"{run_dir.parent.name}/{run_dir.name}" if run_dir.parent.name else run_dir.name
    commands = []
    version, commit = facts.environment.get("r1kit"), facts.environment.get("commit")
    preface = "From the settings that lie beside this file, into a directory of its own:"
    if commit:
        commands.append(f"git checkout {quote(str(commit).removesuffix('+'))}")
        if str(commit).endswith("+"):
            preface = f"Files differed from the commit when this ran. {preface}"
    elif version:
        commands.append(f"pip install r1kit=={quote(str(version))}")
    settings, again = quote(f"{where}/settings.yaml"), quote(f"{facts.name}-again")
    commands.append(f"r1kit run {settings} --set name={again}")
    return {"preface": preface, "commands": commands}


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Nested facts as lines of a name and a value."""
    for key, value in values.items():
        name = f"{above} {key}".strip()
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        elif isinstance(value, list | tuple):
            inner = [_in_one_line(each) for each in value]
            yield name, ", ".join(inner) or "none"
        else:
            yield name, _in_one_line(value)


def _in_one_line(value: Any) -> str:
    """A value, mappings as `key value, key value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return "none" if value is None else str(value)

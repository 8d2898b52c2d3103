"""What an evaluation leaves: scores.json, answers.jsonl, and tables on the terminal."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..teacher.engine import Sampling
from .agreement import Agreement
from .evaluate import Evaluation
from .score import Score
from .short_answer import NOT_ATTEMPTED
from .suites.suite import Kind, LoadedSuite


@dataclass(frozen=True, slots=True)
class Report:
    """One suite's scores.

    Attributes:
        suite: its name.
        model: who answered.
        score: of the whole suite.
        by_source: of its parts.
        facts: all of it for programs, as scores.json holds it.
        folder: where it is written.
        notes: what a reader of the score has to know, a line each.
    """

    suite: str
    model: str
    score: Score
    by_source: dict[str, Score]
    facts: dict[str, Any]
    folder: Path
    notes: tuple[str, ...] = ()


def report(
    evaluation: Evaluation,
    loaded: LoadedSuite,
    model: str,
    sampling: Sampling,
    agreement: Agreement | None,
    folder: Path,
) -> Report:
    """Put together what is known of one evaluation."""
    facts: dict[str, Any] = {
        "model": model,
        "suite": loaded.suite.name,
        "kind": loaded.suite.kind,
        "data": asdict(loaded.source),
        "sampling": asdict(sampling),
        "score": _plain(evaluation.score),
        "by_source": {name: _plain(score) for name, score in evaluation.by_source.items()},
        "asked": evaluation.collected.answered + evaluation.collected.failed,
        "reused": evaluation.collected.already,
    }
    notes = [f"{loaded.suite.name}: {note}" for note in loaded.source.notes]
    if loaded.suite.kind is Kind.SHORT_ANSWER:
        open_ = sum(NOT_ATTEMPTED in row.judgement.tags for row in evaluation.rows)
        facts["not_attempted"] = open_
        notes.append(f"not attempted (counted as not right): {open_} of {len(evaluation.rows)}")
    if agreement is not None:
        facts["judge_agreement"] = asdict(agreement)
        notes.append(spell_agreement(agreement))
    return Report(
        loaded.suite.name,
        model,
        evaluation.score,
        evaluation.by_source,
        facts,
        folder,
        tuple(notes),
    )


def announce(loaded: LoadedSuite, samples: int) -> None:
    """Say on the error stream what will be asked, and what is different about it."""
    source, asked = loaded.source, len(loaded.problems)
    part = "" if asked == source.rows else f" of {source.rows:,}"
    each = "1 answer" if samples == 1 else f"{samples} answers"
    known = {True: ", as known", False: ", NOT as known", None: ""}[source.is_expected]
    lines = [
        f"{loaded.suite.title}: {asked:,}{part} problems, {each} each; {source.place} "
        f"(digest {source.sha256[:12]}{known})",
        *(f"{loaded.suite.name}: {note}" for note in source.notes),
    ]
    print("\n".join(lines), file=sys.stderr)  # noqa: T201 - for people, beside the progress


def write(made: Report, evaluation: Evaluation) -> None:
    """Write answers.jsonl and then scores.json, each whole."""
    answers = "".join(
        json.dumps(
            {
                "id": row.problem.id,
                "suite": made.suite,
                "source": row.problem.source,
                "sample": row.index,
                "gold": row.problem.answer,
                "finish": row.finish,
                "completion_tokens": row.completion_tokens,
                **asdict(row.judgement),
                "key": row.key,
            },
            ensure_ascii=False,
        )
        + "\n"
        for row in evaluation.rows
    )
    scores = json.dumps(made.facts, indent=2, ensure_ascii=False) + "\n"
    for name, text in (("answers.jsonl", answers), ("scores.json", scores)):
        partial = made.folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(made.folder / name)


def show(reports: Sequence[Report], *, as_json: bool) -> None:
    """Print the scores: JSON, or a table for every suite and one for all of them."""
    if as_json:
        facts = [made.facts for made in reports]
        whole = facts[0] if len(facts) == 1 else {"suites": {f["suite"]: f for f in facts}}
        sys.stdout.write(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        return
    for made in reports:
        rows = [*made.by_source.items()]
        if len(rows) != 1:
            rows.append(("all", made.score))
        _print_table(f"{made.model} on {made.suite}", "source", rows)
        for line in (*made.notes, f"answers and scores: {made.folder}"):
            sys.stdout.write(f"{line}\n")
    if len(reports) > 1:
        _print_table(reports[0].model, "suite", [(made.suite, made.score) for made in reports])


def spell_agreement(agreement: Agreement) -> str:
    """A judge's agreement with labels in one line."""
    low, high = (f"{100 * end:.1f}" for end in agreement.ci95)
    kappa = "undefined" if agreement.kappa is None else f"{agreement.kappa:.2f}"
    wrong = [
        f"{count} {label} graded {grade}"
        for label, grades in agreement.confusion.items()
        for grade, count in grades.items()
        if count and label != grade
    ]
    return (
        f"the judge agrees with {100 * agreement.value:.1f} % ({low} to {high}) of "
        f"{agreement.n} labelled answers, kappa {kappa}"
        + (f": {', '.join(wrong)}" if wrong else "")
    )


def _plain(score: Score) -> dict[str, Any]:
    """A score for programs."""
    values = asdict(score)
    return {"pass@1": values.pop("value"), **values, "ci95": list(score.ci95)}


def _print_table(title: str, first: str, rows: Iterable[tuple[str, Score]]) -> None:
    """Print scores, one a line; one called `all` is set apart."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    table.add_column(first)
    for name in ("problems", "samples", "pass@1", "95 % interval", "truncated", "undecided"):
        table.add_column(name, justify="right")
    for name, score in rows:
        if name == "all":
            table.add_section()
        low, high = (f"{100 * end:.1f}" for end in score.ci95)
        table.add_row(
            name,
            str(score.n),
            str(score.samples),
            f"{100 * score.value:.1f} %",
            f"{low} to {high}",
            str(score.truncated),
            str(score.undecided),
        )
    Console(file=sys.stdout).print(table)

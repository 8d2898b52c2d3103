"""What an evaluation leaves: scores.json, answers.jsonl, and tables on the terminal."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..teacher.engine import exceeds_context
from .agreement import Agreement
from .audit import DISAGREEMENTS, AuditCounts
from .classes import Classes
from .evaluate import Evaluation
from .job import Headline, Report
from .outcome import ANSWERS
from .provenance import Provenance
from .score import ScoreCard, summarise, summarise_by_source
from .short_answer import NOT_ATTEMPTED
from .suites.suite import Kind, LoadedSuite, Suite

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


FILE_WIDTH = 110
"""Columns of a table that goes into a file or a pipe."""


@dataclass(frozen=True, slots=True)
class SuiteReport:
    """One suite's scores: a `Report`.

    Attributes:
        suite: its name.
        model: who answered.
        cards: score cards by source, the last one of the whole suite, called `all`.
        facts: all of it for programs, as scores.json holds it.
        folder: where it is written.
        notes: what a reader of the score has to know, a line each.
        last_error: the last one of the engine; empty where there was none.
    """

    suite: str
    model: str
    cards: dict[str, ScoreCard]
    facts: dict[str, Any]
    folder: Path
    notes: tuple[str, ...] = ()
    last_error: str = ""

    @property
    def card(self) -> ScoreCard:
        """The whole suite's."""
        return self.cards["all"]

    @property
    def headline(self) -> Headline:
        """See `Report.headline`."""
        card, found = self.card, self.card.pass_at_1
        if found is None:
            return Headline(card.problems, card.samples, "none", "not final")
        low, high = (100 * end for end in found.ci95)
        value = f"{100 * found.value:.1f} %"
        if not card.is_final:
            return Headline(card.problems, card.samples, f"({value})", "not final")
        return Headline(card.problems, card.samples, value, f"{low:.1f} to {high:.1f}")

    @property
    def not_final(self) -> str:
        """See `Report.not_final`."""
        if not self.card.not_final or not self.last_error:
            return self.card.not_final
        hint = ""
        if exceeds_context(self.last_error):
            hint = "; lower --max-tokens, or serve the model with a longer context"
        return f"{self.card.not_final} (the last error: {self.last_error}{hint})"

    def show(self, console: "Console") -> None:
        """Print tables and notes."""
        from .score_table import print_cards

        print_cards(console, self.cards, f"{self.model} on {self.suite}")
        for line in (*self.notes, f"answers and scores: {self.folder}"):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def report(
    evaluation: Evaluation,
    suite: Suite,
    model: str,
    provenance: Provenance,
    classes: Classes,
    agreement: Agreement | None,
    audit: AuditCounts | None,
    folder: Path,
) -> SuiteReport:
    """Put together what is known of one evaluation."""
    outcomes = [row.outcome(suite.name, classes.by_key.get(row.key)) for row in evaluation.rows]
    by_source = summarise_by_source(outcomes)
    whole = summarise(outcomes)
    facts: dict[str, Any] = {
        "suite": suite.name,
        "model": model,
        "score": whole.to_json(),
        "by_source": {name: card.to_json() for name, card in by_source.items()},
        "provenance": provenance.to_json(),
        "asked": evaluation.collected.answered + evaluation.collected.failed,
        "reused": evaluation.collected.already,
    }
    notes = [f"{suite.name}: {note}" for note in provenance.extra["rows_from"]["notes"]]
    if classes.uncompared:
        notes.append(
            f"cons@k: {classes.uncompared} rare answers were told apart by their text alone"
        )
    if suite.kind is Kind.SHORT_ANSWER:
        open_ = sum(NOT_ATTEMPTED in row.judgement.tags for row in evaluation.rows)
        facts["not_attempted"] = open_
        notes.append(f"not attempted (counted as not right): {open_} of {len(evaluation.rows)}")
    if agreement is not None:
        facts["judge_agreement"] = asdict(agreement)
        notes.append(spell_agreement(agreement))
    if audit is not None:
        facts["audit"] = asdict(audit)
        notes.append(spell_audit(audit))
    cards = by_source if len(by_source) > 1 else {}
    return SuiteReport(
        suite.name,
        model,
        {**cards, "all": whole},
        facts,
        folder,
        tuple(notes),
        evaluation.collected.last_error or "",
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
    sys.stderr.write("\n".join(lines) + "\n")


def write(made: SuiteReport, evaluation: Evaluation, classes: Classes) -> None:
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
                "answer_class": classes.by_key.get(row.key),
                "key": row.key,
            },
            ensure_ascii=False,
        )
        + "\n"
        for row in evaluation.rows
    )
    scores = json.dumps(made.facts, indent=2, ensure_ascii=False) + "\n"
    for name, text in ((ANSWERS, answers), ("scores.json", scores)):
        partial = made.folder / f"{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(made.folder / name)


def show(reports: Sequence[Report], *, as_json: bool) -> None:
    """Print the scores: JSON, or a table for every suite and one for all of them."""
    from rich.console import Console

    if as_json:
        facts = [made.facts for made in reports]
        whole = facts[0] if len(facts) == 1 else {"suites": {r.suite: r.facts for r in reports}}
        sys.stdout.write(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
        return
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=FILE_WIDTH)
    for made in reports:
        made.show(console)
    if len(reports) > 1:
        console.print(_summary(reports))


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


def spell_audit(audit: AuditCounts) -> str:
    """What a second opinion said, in one line."""
    return (
        f"judge model: {audit.decided} of {audit.left_open} left open by the verifier decided; "
        f"{audit.disagreements} disagreements on {audit.audited} others ({DISAGREEMENTS})"
        + (f"; no grade for {audit.ungraded}" if audit.ungraded else "")
    )


def _summary(reports: Sequence[Report]) -> "Table":
    """One line per suite."""
    from rich.table import Table

    table = Table(title=reports[0].model)
    table.add_column("suite")
    for name in ("problems", "samples", "score", "95 % interval"):
        table.add_column(name, justify="right")
    for made in reports:
        head = made.headline
        table.add_row(
            made.suite, f"{head.problems:,}", f"{head.samples:,}", head.value, head.interval
        )
    return table

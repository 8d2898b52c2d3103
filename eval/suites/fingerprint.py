"""Whether rows are those that a suite consists of: their number, and a digest of what they say.

The digest is SHA-256 over the rows' (statement, answer) pairs, with white space run together and
Unicode composed, sorted. So the order of the rows, their ids, other fields and the file's format do
not matter; a changed word or answer does.
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable

from ..problems import Problem
from .suite import ChoiceProblem, Source, Suite, SuiteError


def rows_sha256(problems: Iterable[Problem]) -> str:
    """The digest of some problems, in hexadecimal."""
    rows = sorted(
        json.dumps(_canonical(problem), ensure_ascii=False, separators=(",", ":"))
        for problem in problems
    )
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def check_rows(
    suite: Suite, problems: list[Problem], place: str, *, from_hub: bool, accept_changed: bool
) -> Source:
    """Hold the rows found against what is known of the suite.

    Args:
        suite: what is expected.
        problems: all rows found, without any limit.
        place: where they were found.
        from_hub: the digests were made from files, and a hub's copy may word or space a statement
            in another way: there, another digest is noted and no error.
        accept_changed: go on whatever is found, and note it.

    Raises:
        SuiteError: another number of rows, or a file with other rows.
    """
    found = Source(place, len(problems), rows_sha256(problems))
    if suite.rows is None and suite.sha256 is None:
        return found
    notes, fatal = [], False
    if suite.rows not in (None, found.rows):
        notes.append(f"{found.rows:,} rows where {suite.name} has {suite.rows:,}")
        fatal = True
    if suite.sha256 not in (None, found.sha256):
        assert suite.sha256 is not None
        notes.append(
            f"the rows' digest is {found.sha256[:12]} and not {suite.sha256[:12]}: statements or "
            "answers differ from the known copy"
        )
        fatal = fatal or not from_hub
    if fatal and not accept_changed:
        raise SuiteError(
            f"{suite.name}: {place}: {'; '.join(notes)}; give the published file, or go on with "
            "these rows with --accept-changed"
        )
    return Source(place, found.rows, found.sha256, not notes, tuple(notes))


def _canonical(problem: Problem) -> list[str]:
    """What a row says, in one spelling."""
    texts = [problem.statement, problem.answer or ""]
    if isinstance(problem, ChoiceProblem):
        texts += sorted(problem.choices)
    return [" ".join(unicodedata.normalize("NFC", text).split()) for text in texts]

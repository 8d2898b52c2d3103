"""Pairs of a given and a right answer: how files hold them, and judging them one by one, timed.

One JSON object per line. Fields that are not named here are handed through.

    pred      the given answer: bare, LaTeX, or a whole reply
    gold      the right answer
    problem   the statement, where it is known
    policy    settings of `MathPolicy` for this pair, laid over those of the caller
    expected  `true` or `false`: whether the pair has to be found correct; or the verdict's name
    allow     further verdicts, beside the expected one, that are no mistake
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import ceil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ... import KitError
from ..verdict import Verdict
from .policy import MathPolicy
from .verify import Judgement, MathVerifier

ONE_PER_LINE = "a file of pairs has one JSON object per line, with the fields `pred` and `gold`"
STDIN = Path("-")


class PairsError(KitError):
    """A file of pairs cannot be used. The message starts with the place: path or path:line."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A given answer and the right one.

    Attributes:
        pred: the given answer, perhaps a whole reply.
        gold: the right answer.
        problem: the statement; empty where it is not known.
        policy: settings for this pair alone.
        right: the verdicts that would be no mistake; None where nothing is expected.
        row: the line as it was read.
    """

    pred: str
    gold: str
    problem: str = ""
    policy: Mapping[str, Any] = field(default_factory=dict)
    right: frozenset[Verdict] | None = None
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair, what was said of it, and how long that took in milliseconds of wall clock."""

    pair: Pair
    judgement: Judgement
    ms: float

    @property
    def agrees(self) -> bool | None:
        """Whether the verdict is an expected one; None where nothing is expected."""
        return None if self.pair.right is None else self.judgement.verdict in self.pair.right


def read_pairs(path: Path) -> list[Pair]:
    """Read a file of pairs, or standard input for `-`, whole or not at all.

    Raises:
        PairsError: it is missing or empty, or a line is no pair; the first such line is named.
    """
    name = "stdin" if path == STDIN else str(path)
    try:
        data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    except OSError as error:
        raise PairsError(f"{name}: cannot be read: {error.strerror}") from error
    pairs = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            pairs.append(_pair(line, f"{name}:{number}"))
    if not pairs:
        raise PairsError(f"{name}: no pairs (it is empty); {ONE_PER_LINE}")
    return pairs


def _pair(line: bytes, place: str) -> Pair:
    """One line as a pair."""
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise PairsError(
            f"{place}: not UTF-8 text (byte {line[error.start]:#04x}); {ONE_PER_LINE}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PairsError(f"{place}: not JSON ({error}); {ONE_PER_LINE}") from error
    if not isinstance(row, dict):
        raise PairsError(f"{place}: found {_kind(row)}; {ONE_PER_LINE}")
    policy = row.get("policy", {})
    if not isinstance(policy, dict):
        raise PairsError(f"{place}: policy must be an object of settings, got {_kind(policy)}")
    make_policy(policy, place=f"{place}: policy")
    return Pair(
        _answer(row, "pred", place),
        _answer(row, "gold", place),
        _text(row.get("problem") or "", "problem", place),
        policy,
        _right(row, place),
        row,
    )


def _answer(row: dict[str, Any], name: str, place: str) -> str:
    """The text of `pred` or `gold`; a number is taken as it is written."""
    if name in row:
        return _text(row[name], name, place)
    others = {"pred": ("prediction", "answer"), "gold": ("answer", "target", "expected_answer")}
    meant = [other for other in others[name] if other in row]
    meant = meant or get_close_matches(name, row, 1)
    hint = f"; rename {meant[0]!r} to {name!r}" if meant else ""
    has = ", ".join(map(repr, row)) or "no fields"
    raise PairsError(f"{place}: no {name!r}; the line has {has[:200]}{hint}")


def _text(value: Any, name: str, place: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return value
    raise PairsError(f"{place}: {name} must be text or a number, got {_kind(value)}")


def _right(row: dict[str, Any], place: str) -> frozenset[Verdict] | None:
    """The verdicts that would be no mistake, by `expected` and `allow`."""
    expected, allowed = row.get("expected"), row.get("allow", [])
    if expected is None:
        return None
    if isinstance(expected, bool):
        return frozenset([Verdict.CORRECT] if expected else [Verdict.WRONG, Verdict.UNVERIFIABLE])
    try:
        return frozenset(map(Verdict, [expected, *allowed]))
    except (TypeError, ValueError) as error:
        raise PairsError(
            f"{place}: `expected` must be true, false or a verdict and `allow` a list of verdicts "
            f"({', '.join(Verdict)}); got {json.dumps(expected)} and {json.dumps(allowed)}"
        ) from error


def _kind(value: Any) -> str:
    """A JSON value in JSON's words, shortened."""
    words = {list: "a list", dict: "an object", str: "a text", bool: "a boolean"}
    kind = "null" if value is None else words.get(type(value), "a number")
    return kind if value is None else f"{kind}: {json.dumps(value)[:60]}"


def make_policy(
    settings: Mapping[str, Any], *, place: str, base: MathPolicy | None = None
) -> MathPolicy:
    """A policy from some of its settings, laid over `base`.

    Args:
        settings: by name; texts are read as numbers where the setting is one.
        place: where the settings were found, for messages.
        base: the other settings; by default the defaults.

    Raises:
        PairsError: an unknown setting, or a value that it does not have.
    """
    for name in settings:
        if name not in MathPolicy.model_fields:
            near = get_close_matches(name, MathPolicy.model_fields, 1)
            hint = f"did you mean {near[0]!r}?" if near else ""
            known = hint or f"there are {', '.join(MathPolicy.model_fields)}"
            raise PairsError(f"{place}: {name}: unknown setting; {known}")
    values = {**(base or MathPolicy()).model_dump(), **settings}
    try:
        return MathPolicy.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = ".".join(map(str, wrong["loc"]))
        raise PairsError(f"{place}: {name}: {wrong['msg']}, got {wrong['input']!r}") from error


def judge_pairs(
    pairs: Iterable[Pair],
    policy: MathPolicy | None = None,
    *,
    workers: int = 1,
    timeout_s: float = 10.0,
    on_judged: Callable[[], object] = lambda: None,
) -> Iterator[Judged]:
    """Judge pairs in their order. Each is timed on its own; several workers share the cores.

    Args:
        pairs: what to judge.
        policy: what counts as the same answer, where a pair says nothing else.
        workers: how many pairs are judged at a time.
        timeout_s: wall-clock seconds for one slow comparison.
        on_judged: called whenever another pair is judged, in no promised order.
    """
    pairs = list(pairs)
    with ExitStack() as opened:
        verifiers: dict[str, MathVerifier] = {}
        for pair in pairs:
            key = _key(pair)
            if key not in verifiers:
                own = make_policy(pair.policy, place="policy", base=policy)
                verifier = MathVerifier(own, workers=workers, timeout_s=timeout_s)
                verifiers[key] = opened.enter_context(verifier)

        def judge(pair: Pair) -> Judged:
            began = time.perf_counter()
            judgement = verifiers[_key(pair)].verify(pair.pred, pair.gold, problem=pair.problem)
            judged = Judged(pair, judgement, 1000 * (time.perf_counter() - began))
            on_judged()
            return judged

        if workers == 1:
            yield from map(judge, pairs)
            return
        threads = ThreadPoolExecutor(workers)
        try:
            futures = [threads.submit(judge, pair) for pair in pairs]
            for future in futures:
                yield future.result()
        finally:
            opened.close()  # first, so that no thread goes on waiting for a worker
            threads.shutdown(cancel_futures=True)


def _key(pair: Pair) -> str:
    """What tells policies of pairs apart."""
    return json.dumps(pair.policy, sort_keys=True)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed (nearest rank); 0 of no values."""
    return sorted(values)[max(0, ceil(len(values) * percent / 100) - 1)] if values else 0.0

"""The slow comparison: two formulas through math-verify, in a process that somebody else kills.

math-verify's own time limits rest on SIGALRM and turn a timeout into "not equal", so they are off
here and the pool's limit is the only one. Its extraction is bypassed: both sides are put into a box
of their own, and only its LaTeX reader is used. (The reader for plain expressions hands text to
sympy's `parse_expr`, which evaluates it as Python.)

Known wrong answers of math-verify 0.9 are caught by exact arithmetic: it rounds numbers to six
decimals, so that 1/2^98 "equals" 1/2^99. Others (units, bases, sets against tuples) are settled in
`exact.py` before a pair gets here.
"""

import logging
import re
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Float, Rational

from ..verdict import Verdict
from .exact import Decision

CONFIG = [LatexExtractionConfig(boxed_match_priority=0)]
ROMAN = re.compile(r"\\mathrm\s*\{\s*([a-zA-Z])\s*\}")
NAMES = re.compile(r"(?<![\\A-Za-z])(pi|sin|cos|tan|log|ln|exp)(?![A-Za-z])")
ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)")

EXACT_TOLERANCE = 1e-20
"""Relative; both sides are exact, and 40 digits of each are computed."""

ROUNDED_TOLERANCE = 1e-3
"""Relative; one side is a decimal, which math-verify has found equal to six places."""


def compare(pair: tuple[str, str]) -> Decision:
    """Compare (gold, answer), both LaTeX. May run for ever, and may raise anything."""
    gold, answer = (_repair(text) for text in pair)
    want = _parse(gold)
    if not want:
        return Decision(Verdict.UNVERIFIABLE, "the right answer cannot be read as a formula")
    got = _parse(answer)
    if not got:
        return Decision(Verdict.UNVERIFIABLE, "the answer cannot be read as a formula")
    if not verify(want, got, timeout_seconds=None, raise_on_error=True):
        for side in (want[0], got[0]):
            if getattr(side, "is_number", False):
                side.doit().evalf(20)  # raises where math-verify hid that it could not compute
        return Decision(Verdict.WRONG, "not equal")
    if "%" not in gold + answer and not _plausible(want[0], got[0]):
        return Decision(Verdict.WRONG, "equal only after rounding")
    return Decision(Verdict.CORRECT, "equal")


def quiet() -> None:
    """Keep math-verify from warning that its time limits are off; the pool's are on."""
    logging.getLogger("math_verify").setLevel(logging.ERROR)


def _repair(text: str) -> str:
    """LaTeX for what is written without it: `pi/2`, `exp(16)`, `sqrt(3)`, an upright e."""
    text = ROMAN.sub(r"\1", text)
    text = ROOT.sub(r"\\sqrt{\1}", text)
    return NAMES.sub(r"\\\1", text)


def _parse(text: str) -> list[Any]:
    """What math-verify reads in a formula: a list of one, or empty."""
    parsed: list[Any] = parse(
        f"\\boxed{{{text}}}", CONFIG, fallback_mode="no_fallback", parsing_timeout=None
    )
    return parsed


def _plausible(gold: Any, answer: Any) -> bool:
    """Check two numbers that math-verify calls equal; whatever is no number passes."""
    if not all(getattr(side, "is_number", False) for side in (gold, answer)):
        return True
    gold, answer = gold.doit(), answer.doit()
    if isinstance(gold, Rational) and isinstance(answer, Rational):
        return bool(gold == answer)
    if gold.is_zero is not False or answer.is_zero is not False:
        return True  # relative distance means nothing next to zero
    rounded = gold.has(Float) or answer.has(Float)
    near, far = gold.evalf(40), answer.evalf(40)
    scale = max(abs(near), abs(far))
    return bool(abs(near - far) <= scale * (ROUNDED_TOLERANCE if rounded else EXACT_TOLERANCE))

"""Which scripts a text is written in, and whether it changes between them.

A model that thinks in two languages at once is a known fault of reasoning models trained without
supervision (DeepSeek-R1, arXiv:2501.12948, section 2.3.4); this is the measure for filters and
rewards. Letters are counted by Unicode range. Code blocks and formulas are left out, and so are
letters that stand for quantities: Greek, mathematical alphabets, and Latin letters that stand alone
or are spelled out in LaTeX commands.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Script(StrEnum):
    """A writing system, or `other` for all that are not told apart here."""

    LATIN = "latin"
    HAN = "han"
    CYRILLIC = "cyrillic"
    KANA = "kana"
    HANGUL = "hangul"
    ARABIC = "arabic"
    OTHER = "other"


RANGES = {
    Script.LATIN: "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
    "\uff21-\uff3a\uff41-\uff5a",
    Script.HAN: "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f",
    Script.CYRILLIC: "\u0400-\u052f\u1c80-\u1c8f\u2de0-\u2dff\ua640-\ua69f",
    Script.KANA: "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    Script.HANGUL: "\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7ff",
    Script.ARABIC: "\u0620-\u064a\u066e-\u06d3\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc",
}
NEUTRAL = (
    "\u0370-\u03ff\u1f00-\u1fff\u2100-\u218f\U0001d400-\U0001d7ff\u00b5\u02b0-\u036f"
    "\u00b2\u00b3\u00b9\u00bc-\u00be\u1d2c-\u1d7f\u2070-\u209f\u2460-\u24ff"
)
"""Greek, letter-like symbols, mathematical alphabets, marks, fractions, and what is raised, lowered
or circled: quantities, not language."""

CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
FORMULA = re.compile(
    r"\$\$.{0,5000}?\$\$"
    r"|\\\[.{0,5000}?\\\]"
    r"|\\\(.{0,5000}?\\\)"
    r"|(?<![\\$])\$(?![\s$])[^$\n]{0,500}?(?<![\s\\])\$(?!\d)"
    r"|\\[A-Za-z]+",
    re.DOTALL,
)
RUN = re.compile(
    "|".join(f"(?P<{script}>[{letters}]+)" for script, letters in RANGES.items())
    + rf"|(?P<{Script.OTHER}>[^\W\d_{NEUTRAL}{''.join(RANGES.values())}]+)"
)

JAPANESE = frozenset({Script.KANA, Script.HAN})
KANA_SHARE = 0.1
"""The share of kana among kana and Han from which on a text is Japanese, where Han belongs."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """How much of a text is not in its main script.

    Attributes:
        main: the script with the most letters; None where the text has no letters.
        foreign_share: the share of letters in other scripts, in [0, 1].
        span: the first run of text in another script; empty where there is none.
    """

    main: Script | None
    foreign_share: float
    span: str


def script_shares(text: str) -> dict[Script, float]:
    """The share of each script among the letters of a text; only those that occur."""
    counts = _counts(text)
    total = sum(counts.values())
    return {script: count / total for script, count in counts.items()}


def mixed_scripts(text: str) -> Mixing:
    """The main script, the share of letters outside it, and where the first of them stand.

    Han and kana are one script in a Japanese text, whichever is more frequent.
    """
    counts = _counts(text)
    if not counts:
        return Mixing(None, 0.0, "")
    main = max(counts, key=lambda script: counts[script])
    native = {main}
    kana, han = counts.get(Script.KANA, 0), counts.get(Script.HAN, 0)
    if main in JAPANESE and kana >= KANA_SHARE * (kana + han):
        native, main = set(JAPANESE), Script.KANA
    foreign = sum(count for script, count in counts.items() if script not in native)
    return Mixing(main, foreign / sum(counts.values()), _first_foreign(text, native))


def _runs(text: str) -> Iterator[tuple[Script, int, int]]:
    """Runs of letters in one script as (script, start, end) of the text itself."""
    for pattern in (CODE, FORMULA):
        text = pattern.sub(lambda found: " " * len(found.group()), text)
    for found in RUN.finditer(text):
        script = Script(str(found.lastgroup))
        if script is not Script.LATIN or found.end() - found.start() > 1:
            yield script, found.start(), found.end()


def _counts(text: str) -> dict[Script, int]:
    counts: dict[Script, int] = {}
    for script, start, end in _runs(text):
        counts[script] = counts.get(script, 0) + end - start
    return counts


def _first_foreign(text: str, native: set[Script]) -> str:
    """The first run of foreign words, blanks and punctuation between them included."""
    start = end = None
    for script, begins, ends in _runs(text):
        if script not in native:
            start, end = begins if start is None else start, ends
        elif start is not None:
            break
    return "" if start is None else text[start:end]

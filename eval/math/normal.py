"""Answers in one spelling, and those that are plain numbers as exact fractions.

What this file cannot read it leaves alone: `read` gives None, and something slower decides.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "，": ",", "（": "(", "）": ")", "；": ";",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "×": r"\times ", "·": r"\cdot ",
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
    }
)  # fmt: skip
"""Typographic signs and full-width forms, as plain ASCII or LaTeX."""

WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|operatorname)\s*"
                  r"\{([^{}]*)\}")  # fmt: skip
BARE_FRACTION = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
REPLACED = (
    (re.compile(r"\\(?:left|right|big|Big|bigg|Bigg)[lr]?(?![A-Za-z])"), ""),
    (re.compile(r"\\displaystyle(?![A-Za-z])"), ""),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\{,\}|,\\!\s*"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[,;: ]|~|\\q?quad(?![A-Za-z])"), " "),
    (re.compile(r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*\\circ\s*\})|°"), " degrees"),
    (re.compile(r"\\([$%])"), r"\1"),
)
SPACE = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")

INTEGER = r"\d+|\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+"
DECIMAL = rf"(?:{INTEGER})?\.\d+"
NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:"
    rf"(?P<plain>{DECIMAL}|{INTEGER})"
    rf"|(?P<over>{INTEGER})\s*/\s*(?P<under>\d+)"
    rf"|(?P<mixed>\d+)?\s*\\frac\{{\s*(?P<top>-?\d+)\s*\}}\{{\s*(?P<bottom>-?\d+)\s*\}}"
    rf"|(?P<whole>\d+) (?P<part>\d+)/(?P<parts>\d+)"
    rf"|(?P<digits>\d+(?:\.\d+)?)\s*(?:\\times|\\cdot|\*)\s*10\s*\^\s*"
    rf"(?:\{{\s*(?P<power>[+-]?\d{{1,3}})\s*\}}|(?P<short>\d))"
    rf")"
)
THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+")
UNIT = re.compile(
    r"(?P<number>.*?[\d}])(?P<gap>\s*)(?P<unit>[%$]|[A-Za-z][A-Za-z .]*)"
    r"(?:\s?\^\s?\{?(?P<power>\d)\}?)?"
)
WORDS = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+)*")
BRACKET = re.compile(r"\\[{}]|[()\[\]]")
BASED = re.compile(r"(?P<digits>[0-9A-Z]+)_\{?(?P<base>\d{1,2})\}?")

NOT_UNITS = set("pi sqrt mod or and sin cos tan log ln exp i e x y n k to base".split())  # noqa: SIM905
SPELLINGS = """
cm centimeter centimetre; mm millimeter millimetre; m meter metre; km kilometer kilometre
in inch inche; ft feet foot; yd yard; mi mile; mg milligram; g gram; kg kilogram; lb pound
oz ounce; s sec second; min minute; hr hour; ml milliliter; liter litre; $ dollar usd
cent; degree deg; % percent percentage pct
"""
UNITS = {
    spelling: line.split()[0]
    for line in SPELLINGS.replace("\n", ";").split(";")
    for spelling in line.split()
}
"""Spellings of common units, plural s removed, by the spelling that stands for all of them."""


@dataclass(frozen=True, slots=True)
class Plain:
    """An answer that is nothing but exact numbers.

    Attributes:
        values: one number, or the members of a list in the order written.
        kind: `number`, or the brackets of a list: `bare`, `{}`, `()`, `[]`, `(]`, `[)`.
        unit: what the number counts, in one spelling; empty where nothing is said.
        decimal: whether a decimal point was written, so that it may be a rounded value.
    """

    values: tuple[Fraction, ...]
    kind: str
    unit: str = ""
    decimal: bool = False


def clean(text: str) -> str:
    """One spelling for what LaTeX spells in several ways; the text stays LaTeX."""
    text = text.translate(SIGNS).strip()
    text = _unwrap(text)
    for pattern, replacement in REPLACED:
        text = pattern.sub(replacement, text)
    text = TEXT.sub(r" \1 ", text)
    text = BARE_FRACTION.sub(_braced_fraction, text)
    text = " ".join(text.split())
    return text.rstrip(". \\").strip()


def key(text: str) -> str:
    """A spelling in which equal strings mean equal answers: spaces go, except between digits."""
    text = clean(text)
    if THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    return SPACE.sub("", text)


def words(text: str) -> str | None:
    """The answer in lower case where it is made of words, else None; letters are no words."""
    text = clean(text).strip("()")
    longest = max((len(word) for word in text.split()), default=0)
    return text.casefold() if WORDS.fullmatch(text) and longest >= 3 else None


def based(text: str) -> tuple[str, int] | None:
    """The digits and the base of a number such as `204_5`, or None."""
    found = BASED.fullmatch(key(text))
    return (found["digits"].lstrip("0"), int(found["base"])) if found else None


def brackets(text: str) -> str:
    """The brackets around an answer: `{}` (a set), `()`, `[]`, `(]`, `[)`; empty where none."""
    text = clean(text)
    found = list(BRACKET.finditer(text))
    if not found or found[0].start() > 0 or found[-1].end() < len(text):
        return ""
    depth = 0
    for bracket in found:
        depth += 1 if bracket.group()[-1] in "{([" else -1
        if depth == 0 and bracket is not found[-1]:
            return ""  # `(1,2), (3,4)`: the first does not close at the end
    kind = found[0].group()[-1] + found[-1].group()[-1]
    return kind if depth == 0 and kind in ("{}", "()", "[]", "(]", "[)") else ""


def read(text: str, *, as_list: bool = False) -> Plain | None:
    """Read an answer that is a number, a number with a unit, or a list of numbers.

    Args:
        text: LaTeX or plain.
        as_list: read `1,234` as a list of two rather than as one number.
    """
    text = clean(text)
    if not as_list and (single := _single(text)) is not None:
        return single
    kind = brackets(text)
    width = 0 if not kind else 2 if kind == "{}" else 1
    inside = text[width : len(text) - width]
    parts = re.split(r"\s*(?:[,;]\s*(?:and\s+)?|\sand\s)\s*", inside.strip("{} "))
    values = [_number(part) for part in parts]
    if len(parts) < 2 and not kind:
        return None
    if any(value is None for value in values):
        return None
    return Plain(
        tuple(value for value in values if value is not None),
        kind or "bare",
        decimal="." in text,
    )


def _single(text: str) -> Plain | None:
    """One number, with or without a unit before or behind it."""
    unit = ""
    if text.startswith(("$", "-$")):
        text, unit = text.replace("$", "", 1), "$"
    elif found := UNIT.fullmatch(text):
        unit = _unit(found)
        if not unit:
            return None
        text = found["number"]
    value = _number(text)
    return None if value is None else Plain((value,), "number", unit, "." in text)


def _unit(found: re.Match[str]) -> str:
    """The unit behind a number in one spelling; empty where the letters may be variables."""
    name = found["unit"].strip(" .").lower()
    known = UNITS.get(name.rstrip("s") or name)
    first = name.split()[0] if name else ""
    if first in NOT_UNITS or (known is None and (not found["gap"] or len(first) < 4)):
        return ""  # `5x`, `5 abc`, `5 mod 3`
    if len(name) == 1 and name.isalpha() and not found["gap"]:
        return ""  # `5m` may be a product
    return (known or name.rstrip("s")) + (f"^{found['power']}" if found["power"] else "")


def _number(text: str) -> Fraction | None:
    """An integer, fraction, mixed number, terminating decimal or power of ten, exactly."""
    found = NUMBER.fullmatch(text.strip())
    if found is None:
        return None
    try:
        value = _value(found)
    except ZeroDivisionError:
        return None
    return -value if found["sign"] == "-" else value


def _value(found: re.Match[str]) -> Fraction:
    if found["plain"] is not None:
        return Fraction(found["plain"].replace(",", "").replace(" ", ""))
    if found["over"] is not None:
        return Fraction(int(found["over"].replace(",", "").replace(" ", "")), int(found["under"]))
    if found["top"] is not None:
        part = Fraction(int(found["top"]), int(found["bottom"]))
        return int(found["mixed"] or 0) + part
    if found["whole"] is not None:
        return int(found["whole"]) + Fraction(int(found["part"]), int(found["parts"]))
    return Fraction(found["digits"]) * Fraction(10) ** int(found["power"] or found["short"])


def _unwrap(text: str) -> str:
    """Take the signs of a formula away, where they are around the whole text."""
    text = text.rstrip(".").rstrip()
    for opening, closing in WRAPPERS:
        inside = text[len(opening) : -len(closing)]
        around = text.startswith(opening) and text.endswith(closing)
        if around and len(text) > len(opening + closing) and opening not in inside:
            return inside.strip()
    return text


def _braced_fraction(found: re.Match[str]) -> str:
    top = found[1] if found[1] is not None else found[2]
    bottom = found[3] if found[3] is not None else found[4]
    return f"\\frac{{{top}}}{{{bottom}}}"

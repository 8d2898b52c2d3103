"""Numbers and names the way people read them, and text of unknown origin made fit to show.

The terminal table, the report and the data set's card say the same things in the same words.
"""

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from ..eval.score import Score
from .facts import ReportFacts

NAMES: Mapping[str, str] = {
    "teacher": "teacher",
    "student_before": "student before",
    "student_after": "student after",
    "teacher_on_problems": "teacher, sampled problems",
}
"""Key of a score -> its name, in the order in which scores are shown."""

LONGEST_REPLY = 6_000
"""Characters of a reply that the report shows; of a longer one the middle is left out."""

INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that turn the direction of text around them, and half characters."""


def share(value: float) -> str:
    """A share in [0, 1] as `72.4 %`, with a blank that does not break."""
    return f"{100 * value:.1f}\u00a0%"


def count(number: int | float) -> str:
    """A whole number with separators: `12,345`."""
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3_600} h {whole % 3_600 // 60} min"


def words(name: object) -> str:
    """A name of the program as words: `too_long` becomes `too long`."""
    return clean(name).replace("_", " ")


def clean(text: object) -> str:
    """Text that shows what it holds: what is invisible or turns the text around it is drawn."""
    return INVISIBLE.sub(_visible, str(text).replace("\r\n", "\n"))


def middle_out(text: str) -> str:
    """The text, without its middle where it is longer than `LONGEST_REPLY` characters."""
    if len(text) <= LONGEST_REPLY:
        return text
    head, tail = LONGEST_REPLY * 2 // 3, LONGEST_REPLY // 3
    left_out = count(len(text) - head - tail)
    return f"{text[:head]}\n\n[… {left_out} characters left out …]\n\n{text[-tail:]}"


def size(num_bytes: int) -> str:
    """`812 bytes`, `4.2 KiB` or `1,204.0 MiB`."""
    if num_bytes < 2**10:
        return f"{num_bytes} bytes"
    return f"{num_bytes / 2**10:.1f} KiB" if num_bytes < 2**20 else f"{num_bytes / 2**20:,.1f} MiB"


def name_of(key: str) -> str:
    """The name of a score."""
    return NAMES.get(key, words(key))


def in_order(keys: Iterable[str]) -> list[str]:
    """Scores in the order in which they are shown; those without a name come last, by key."""
    order = list(NAMES)
    return sorted(keys, key=lambda key: (order.index(key) if key in order else len(order), key))


def score_words(score: Score) -> str:
    """`72.4 % (95 % interval 68.1 % to 76.3 %, n = 500)`."""
    low, high = score.ci95
    return (
        f"{share(score.value)} (95\u00a0% interval {share(low)} to {share(high)}, "
        f"n = {count(score.n)})"
    )


def short_sources(sources: Iterable[str]) -> dict[str, str]:
    """Source -> its name without the folder that all of them share: `tiny/gcd` becomes `gcd`."""
    names = list(sources)
    folders = {name.rpartition("/")[0] for name in names}
    if len(names) < 2 or len(folders) != 1 or folders == {""}:
        return {name: name for name in names}
    return {name: name.rpartition("/")[2] for name in names}


def lead(facts: ReportFacts) -> str:
    """The run in one sentence."""
    before, after = facts.scores.get("student_before"), facts.scores.get("student_after")
    teacher = facts.scores.get("teacher")
    if after is not None:
        start = "" if before is None else f"from {share(before.score.value)} "
        student = f"The student went {start}to pass@1 {score_words(after.score)}"
        behind = "." if teacher is None else f"; its teacher is at {share(teacher.score.value)}."
        if before is not None and _overlap(before.score, after.score):
            behind += " The intervals of before and after overlap: no sure difference."
        return student + behind
    kept = f"{count(facts.kept) if facts.kept else 'None'} of {count(facts.sampled)} sampled "
    kept += "traces were kept; no student was scored"
    if teacher is not None:
        return f"{kept}. The teacher's pass@1 is {score_words(teacher.score)}."
    return f"{kept}."


def _overlap(one: Score, other: Score) -> bool:
    """Whether the intervals of two scores share a value."""
    return one.ci95[0] <= other.ci95[1] and other.ci95[0] <= one.ci95[1]


def yaml_text(values: Mapping[str, Any]) -> str:
    """Settings as YAML, in their own order; what YAML has no word for becomes text."""
    text: str = yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True, width=90)
    return text.rstrip()


def one_line(text: str, length: int) -> str:
    """The text on one line of at most `length` characters; blanks collapse, the middle goes."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    tail = length // 4
    return f"{line[: length - tail - 3]} … {line[-tail:]}"


def shorten(text: str, width: int) -> str:
    """The beginning of a text, on one line, cut between words."""
    return textwrap.shorten(text, width, placeholder=" …") or one_line(text, width)


def _plain(value: Any) -> Any:
    """The value in the words that YAML and JSON have."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return str(value)


def _visible(match: re.Match[str]) -> str:
    """A picture of a control character where there is one; the replacement character elsewhere."""
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"

"""Loops in a text: three measures, each of which catches what the other two miss.

Spans of words that come again and again find a loop of any period, also with sound text around it.
Runs of lines find a short list that says the same thing over and over. The compression ratio finds
what has no words to count, such as one digit ten thousand times.

The measures only measure; `filters.py` holds the limits, which were chosen from these figures:

    text                                            spans   line run   ratio
    worked steps of the embedded families            0.00          2       -
    2,000 column additions in a row                  0.00          1    0.31
    500 divisions, one worded line each              0.00          1    0.10
    MATH-500's reference solutions, the worst        0.04          2    0.20
    sound text, then a 20-word loop: a last quarter  0.18         25    0.31
    the same, the last half                          0.41         79    0.21
    nothing but that loop                            0.97         30    0.04

Source: the counts of spans and lines follow AM-DeepSeek-R1-Distilled (arXiv:2505.14464) and
Gopher's repetition filters (arXiv:2112.11446, table A1).
Cost: about 10 ms for 10,000 words.
"""

import re
import zlib
from collections import Counter
from dataclasses import dataclass

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|([^\w\s])\1*")
"""A word, a sign and its repetitions (a ruled line is one), or a character of a script without
blanks."""

MAX_PERIOD = 8
"""Lines in the longest block whose repetition is looked for."""


@dataclass(frozen=True, slots=True)
class Spans:
    """How much of a text is spans of words that come again and again.

    Attributes:
        share: repetitions of such spans over all spans, in [0, 1].
        times: how often the most frequent span occurs.
        example: that span, its words parted by blanks.
    """

    share: float
    times: int
    example: str


@dataclass(frozen=True, slots=True)
class LineRun:
    """The longest run of one block of lines, repeated without a break.

    Attributes:
        times: how often the block stands in a row; 1 where nothing repeats, 0 where there is no
            line.
        block: the block's lines.
    """

    times: int
    block: tuple[str, ...]


def repeated_spans(text: str, *, num_words: int = 40, times: int = 4) -> Spans:
    """Count the repetitions of spans of `num_words` words that occur at least `times` times.

    Two or three occurrences are no loop: a formula is carried from line to line. A text with fewer
    words than one span has a share of 0.
    """
    words = [match[0] for match in WORD.finditer(text)]
    spans = Counter(zip(*(words[start:] for start in range(num_words)), strict=False))
    if not spans:
        return Spans(0.0, 0, "")
    repetitions = sum(count - 1 for count in spans.values() if count >= times)
    example, most = max(spans.items(), key=lambda item: item[1])  # the first of the most frequent
    return Spans(repetitions / (len(words) - num_words + 1), most, " ".join(example))


def longest_line_run(text: str) -> LineRun:
    """Find the block of at most `MAX_PERIOD` lines that stands most often in a row.

    Blank lines are passed over, and blanks around and within a line do not count.
    """
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    best = LineRun(min(1, len(lines)), tuple(lines[:1]))
    for period in range(1, min(MAX_PERIOD, len(lines) // 2) + 1):
        matched = 0
        for at in range(period, len(lines)):
            matched = matched + 1 if lines[at] == lines[at - period] else 0
            if matched // period + 1 > best.times:
                best = LineRun(matched // period + 1, tuple(lines[at - period + 1 : at + 1]))
    return best


def compression_ratio(text: str) -> float:
    """Bytes after zlib over bytes before: about 0.4 for prose, near 0 for a loop; 1 for no text."""
    raw = text.encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw, 6)) / len(raw) if raw else 1.0

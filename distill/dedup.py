"""Exact duplicates: the same reply to the same problem, kept once.

Blanks and the composition of accented letters do not count. Case and compatibility forms do: in
mathematics x and X, or 2 and a superscript 2, are different things.
"""

import hashlib
import unicodedata
from collections.abc import Iterable

from .trace import Trace


def duplicates(traces: Iterable[Trace]) -> dict[str, str]:
    """Map the key of every duplicate to the key of its first occurrence, which stays.

    Two traces are duplicates where statement and reply are equal after normalisation, whatever
    their problem ids. The order of `traces` decides which one is first. Only digests are kept in
    memory, about 200 bytes for a trace.
    """
    first: dict[bytes, str] = {}
    found: dict[str, str] = {}
    for trace in traces:
        kept = first.setdefault(_digest(trace), trace.key)
        if kept != trace.key:
            found[trace.key] = kept
    return found


def _digest(trace: Trace) -> bytes:
    """What makes two traces the same; statement and reply are hashed apart, so none runs over."""
    parts = (trace.problem.statement, trace.completion.text)
    whole = b"".join(hashlib.sha256(_normalise(part)).digest() for part in parts)
    return hashlib.sha256(whole).digest()


def _normalise(text: str) -> bytes:
    composed = unicodedata.normalize("NFC", text)
    return " ".join(composed.split()).encode("utf-8", "surrogatepass")

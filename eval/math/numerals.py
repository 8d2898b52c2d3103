"""Numbers in words: `seven`, `twenty-one`, `two hundred five`, `one half`, `three quarters`."""

from flint import fmpq

UNITS = {
    word: number
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen".split()  # noqa: SIM905
    )
} | {"none": 0}
TENS = {
    word: 10 * number
    for number, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split(),  # noqa: SIM905
        start=2,
    )
}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
    "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12,
}  # fmt: skip


def number_in_words(words: str) -> fmpq | None:
    """The number that some words in lower case name, or None."""
    parts = words.replace("-", " ").split()
    if parts[:1] == ["minus"] or parts[:1] == ["negative"]:
        inner = number_in_words(" ".join(parts[1:]))
        return None if inner is None else -inner
    if len(parts) > 1 and (whole := PARTS.get(parts[-1]) or PARTS.get(parts[-1].rstrip("s"))):
        top = _whole([part for part in parts[:-1] if part != "a"] or ["one"])
        return None if top is None else fmpq(top, whole)
    if parts == ["half"]:
        return fmpq(1, 2)
    count = _whole(parts)
    return None if count is None else fmpq(count)


def _whole(parts: list[str]) -> int | None:
    """A whole number; each scale multiplies what stands before it."""
    if not parts or len(parts) > 12:
        return None
    total, group = 0, 0
    for place, part in enumerate(parts):
        if part == "and" and place:
            continue
        if part in UNITS:
            group += UNITS[part]
        elif part in TENS:
            group += TENS[part]
        elif part == "hundred":
            group = (group or 1) * 100
        elif part in SCALES:
            total, group = total + (group or 1) * SCALES[part], 0
        else:
            return None
    return total + group

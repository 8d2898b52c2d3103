"""What a cubin says of itself: an ELF file, read as far as the tests ask."""

import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Symbol:
    """One name that a cubin defines.

    Attributes:
        section: the name of the section that holds it.
        content: its bytes there; none where the section takes up no room in the file.
    """

    section: str
    content: bytes


def symbols(cubin: bytes) -> dict[str, Symbol]:
    """Name -> symbol, of the variables and functions that the cubin defines."""
    assert cubin[:5] == b"\x7fELF\x02"  # 64 bits
    (at,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names_at = struct.unpack_from("<HHH", cubin, 58)
    heads = [struct.unpack_from("<IIQQQQIIQQ", cubin, at + size * each) for each in range(count)]
    names = content(cubin, heads[names_at])
    found = {}
    for head in heads:
        if head[1] != 2:  # a table of symbols
            continue
        text = content(cubin, heads[head[6]])
        for name, info, _, section, value, length in struct.iter_unpack(
            "<IBBHQQ", content(cubin, head)
        ):
            if info & 15 in (1, 2) and 0 < section < count:  # a variable or a function
                held = content(cubin, heads[section])[value : value + length]
                found[word(text, name)] = Symbol(word(names, heads[section][0]), held)
    return found


def content(cubin: bytes, head: tuple[int, ...]) -> bytes:
    """A section's bytes."""
    return b"" if head[1] == 8 else cubin[head[4] : head[4] + head[5]]


def word(text: bytes, at: int) -> str:
    """The string that begins at `at`."""
    return text[at : text.index(b"\0", at)].decode()

"""What a formula is read into: numbers, symbols, and heads applied to arguments.

Heads are plain strings. The ones that stand for values:

    add mul div pow neg          arithmetic; `pow` is (base, exponent)
    sqrt root abs fact fact2     `root` is (radicand, degree), `fact2` the double factorial
    sin ... log ln exp           functions of one argument; `log` may have its base as the second
    floor ceil gcd lcm max min mod binom
    sum prod int lim deriv       bound variables: see `parser.py`
    apply                        an unknown function, its name in `info`
    pm mp                        plus-minus and minus-plus, of two arguments or one
    percent degree               a sign behind a value
    based                        a number in a base, (digits as text in `info`, base as argument)
    ratio cong                   `a:b:c`; `a mod m` with a modulus that belongs to the answer

and the ones that stand for things made of values:

    list                         values without brackets, separated by commas or words
    group                        the same in brackets; `info` is the pair, such as `()` or `[)`
    set                          in braces
    union inter minus            of sets
    chain                        relations; `info` holds the signs between the arguments
    matrix row                   rows of entries
    build                        a set given by a condition
    text                         words, in `info`
"""

from dataclasses import dataclass
from typing import Any

from flint import fmpq


@dataclass(frozen=True, slots=True)
class Number:
    """An exact number.

    Attributes:
        value: the number.
        digits: significant digits that were written, where it was written as a decimal; else 0.
        places: digits behind the point, exponent included (`2.5e-3` has 4); may be negative.
        scientific: whether a power of ten was written with it.
    """

    value: fmpq
    digits: int = 0
    places: int = 0
    scientific: bool = False


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, or one of the constants `pi`, `e`, `i`, `oo`."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """A head applied to arguments."""

    head: str
    args: tuple["Node", ...]
    info: Any = None


Node = Number | Symbol | Apply

CONSTANTS = frozenset({"pi", "e", "i", "oo", "undefined"})


def symbols(node: Node) -> set[str]:
    """The names of all variables in a tree; constants are none."""
    if isinstance(node, Symbol):
        return set() if node.name in CONSTANTS else {node.name}
    if isinstance(node, Apply):
        return set().union(*(symbols(arg) for arg in node.args)) if node.args else set()
    return set()


def heads(node: Node) -> set[str]:
    """All heads in a tree."""
    if isinstance(node, Apply):
        return {node.head}.union(*(heads(arg) for arg in node.args))
    return set()


def has(node: Node, *wanted: str) -> bool:
    """Whether one of some heads is in a tree."""
    if not isinstance(node, Apply):
        return False
    return node.head in wanted or any(has(arg, *wanted) for arg in node.args)


def has_symbol(node: Node, name: str) -> bool:
    """Whether a symbol, constants included, is in a tree."""
    if isinstance(node, Symbol):
        return node.name == name
    return isinstance(node, Apply) and any(has_symbol(arg, name) for arg in node.args)


def rename(node: Node, old: str, new: str) -> Node:
    """The tree with a symbol under another name."""
    if isinstance(node, Symbol):
        return Symbol(new) if node.name == old else node
    if isinstance(node, Apply):
        return Apply(node.head, tuple(rename(arg, old, new) for arg in node.args), node.info)
    return node


def substitute(node: Node, old: Node, new: Node) -> Node:
    """The tree with one subtree put in another's place."""
    if node == old:
        return new
    if isinstance(node, Apply):
        return Apply(node.head, tuple(substitute(arg, old, new) for arg in node.args), node.info)
    return node

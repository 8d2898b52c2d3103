"""Answers taken apart: what kind of thing a tree is, its members, its rows, its terms.

Nothing here compares two answers by the policy; that is `typed.py`'s.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import permutations

from flint import acb, arb, fmpq

from .equal import difference, equal
from .names import named_value
from .region import FLIPPED, Region, order
from .tree import Apply, Node, Number, Symbol, has, rename, substitute, symbols
from .values import Undefined, Unknown, Value, real_part

MAX_VARIANTS = 16
"""Readings that plus-minus signs may give one expression."""

REGIONS = ("union", "inter", "minus", "build")
COLLECTIONS = ("list", "group", "set")
BRACKETS = frozenset({"()", "[)", "(]", "[]", "<>"})


def unwrapped(node: Node) -> Node:
    """A list of one, and brackets around a single chain, are what is in them."""
    while isinstance(node, Apply) and node.head == "list" and len(node.args) == 1:
        node = node.args[0]
    return node


def line_in(node: Node, name: str) -> tuple[Node, Node] | None:
    """(start, step) of what is linear in a parameter and has no other variable; else None."""
    if symbols(node) != {name} or not is_linear(node):
        return None
    start, after = (substitute(node, Symbol(name), Number(fmpq(at))) for at in (0, 1))
    return start, Apply("add", (after, Apply("neg", (start,))))


def other_unknown(name: Node, other: Node) -> bool:
    """Whether two names are plain variables, segments or derivatives, and not the same one."""
    if isinstance(name, Symbol) and isinstance(other, Symbol):
        return name != other and Symbol("unnamed") not in (name, other)
    if not (isinstance(name, Apply) and isinstance(other, Apply) and name.head == other.head):
        return False
    if name.head == "apply":
        return str(name.info).count("'") != str(other.info).count("'")
    letters = [[a.name for a in n.args if isinstance(a, Symbol)] for n in (name, other)]
    segments = all(len(each) == 2 and "".join(each).isupper() for each in letters)
    return name.head == "mul" and segments and sorted(letters[0]) != sorted(letters[1])


def variants(node: Node) -> list[Node]:
    """The expressions that plus-minus signs stand for; all signs of a formula switch together."""
    if not has(node, "pm", "mp") or has(node, *COLLECTIONS, "chain", "matrix"):
        return [node]
    return [signed(node, upper) for upper in (True, False)][:MAX_VARIANTS]


def with_signed_tuples(node: Node) -> Node:
    """`(pm 1, 2)` as the two tuples that it stands for; with more signs, how they go together is
    not said.
    """
    if not has(node, "pm", "mp") or not isinstance(node, Apply):
        return node
    if node.head == "list" and any(kind_of(arg) in BRACKETS for arg in node.args):
        return Apply("list", tuple(t for arg in node.args for t in signed_tuples(arg)), node.info)
    tuples = signed_tuples(node)
    return tuples[0] if len(tuples) == 1 else Apply("list", tuple(tuples), ",")


def signed_tuples(node: Node) -> list[Node]:
    if kind_of(node) not in ("()", "<>") or signs_in(node) != 1:
        return [node]
    return [signed(node, upper) for upper in (True, False)]


def signs_in(node: Node) -> int:
    if not isinstance(node, Apply):
        return 0
    return (node.head in ("pm", "mp")) + sum(map(signs_in, node.args))


def signed(node: Node, upper: bool) -> Node:
    if not isinstance(node, Apply):
        return node
    args = tuple(signed(arg, upper) for arg in node.args)
    if node.head not in ("pm", "mp"):
        return Apply(node.head, args, node.info)
    plus = upper == (node.head == "pm")
    last: Node = args[-1] if plus else Apply("neg", (args[-1],))
    return last if len(args) == 1 else Apply("add", (args[0], last))


def rows_of(node: Node) -> list[list[Node]] | None:
    """The entries of a matrix, or of sums and products with matrices in them."""
    if not isinstance(node, Apply):
        return None
    if node.head == "matrix":
        return [list(row.args) for row in node.args if isinstance(row, Apply)]
    if node.head == "group" and all(kind_of(arg) == "[]" for arg in node.args):
        rows = [list(items_of(arg)) for arg in node.args]  # `[[1, 2], [3, 4]]`
        return rows if len({len(row) for row in rows}) == 1 else None
    if node.head == "group" or node.head == "list":
        return [[arg] for arg in node.args]
    if node.head == "neg":
        inner = rows_of(node.args[0])
        return None if inner is None else [[Apply("neg", (e,)) for e in row] for row in inner]
    if node.head == "add":
        return sum_of([rows_of(arg) for arg in node.args])
    if node.head == "mul":
        return product_of(list(node.args))
    if node.head == "div" and (inner := rows_of(node.args[0])) is not None:
        return [[Apply("div", (e, node.args[1])) for e in row] for row in inner]
    return None


UNIT_VECTORS = ("hat i", "hat j", "hat k")


def has_unit_vectors(node: Node) -> bool:
    return not symbols(node).isdisjoint(UNIT_VECTORS)


def components(node: Node, other: Node) -> Node:
    """`2 i + 3 j` as the tuple of its components, as many as the other side has, or three."""
    if not has_unit_vectors(node):
        return node
    rows = rows_of(other)
    count = 3 if rows is None else max(len(rows), len(rows[0]))
    parts = []
    for wanted in UNIT_VECTORS[: count if count in (2, 3) else 3]:
        part = node
        for name in UNIT_VECTORS:
            part = substitute(part, Symbol(name), Number(fmpq(int(name == wanted))))
        parts.append(part)
    return Apply("group", tuple(parts), "<>")


def sum_of(parts: list[list[list[Node]] | None]) -> list[list[Node]] | None:
    total = parts[0]
    for part in parts[1:]:
        if total is None or part is None or shape_of(total) != shape_of(part):
            return None
        total = [
            [Apply("add", pair) for pair in zip(*rows, strict=True)]
            for rows in zip(total, part, strict=True)
        ]
    return total


def product_of(factors: list[Node]) -> list[list[Node]] | None:
    scalars: list[Node] = []
    total: list[list[Node]] | None = None
    for factor in factors:
        rows = rows_of(factor) if has(factor, "matrix") else None
        if rows is None:
            scalars.append(factor)
        elif total is None:
            total = rows
        else:
            if len(total[0]) != len(rows):
                return None
            columns = list(zip(*rows, strict=True))
            total = [[dot_product(row, column) for column in columns] for row in total]
    if total is None:
        return None
    return [[Apply("mul", (*scalars, e)) if scalars else e for e in row] for row in total]


def dot_product(row: Sequence[Node], column: Sequence[Node]) -> Node:
    return Apply("add", tuple(Apply("mul", pair) for pair in zip(row, column, strict=True)))


def shape_of(rows: list[list[Node]]) -> tuple[int, int]:
    return len(rows), len(rows[0])


def as_vector(rows: list[list[Node]]) -> list[Node] | None:
    """The entries of a row or a column."""
    if len(rows) == 1:
        return rows[0]
    return [row[0] for row in rows] if len(rows[0]) == 1 else None


def proportional(gold: Node, answer: Node, positive: bool = False) -> bool | str | None:
    """Whether one expression is a constant times the other.

    Returns True, "other" where it is not, or None where that could not be told.
    """
    names = sorted(symbols(gold) | symbols(answer))
    if not names:
        return True if equal(gold, answer) else None
    if symbols(gold) != symbols(answer):
        return "other"
    ratio: Node = Apply("div", (gold, answer))
    shifted = ratio
    for turn, name in enumerate(names):
        shifted = substitute(
            shifted,
            Symbol(name),
            Apply("add", (Symbol(name), Number(fmpq(7 + 2 * turn, 5 + turn)))),
        )
    found = equal(ratio, shifted)
    if found is not True:
        return None if found is None else "other"
    if not positive:
        return True
    return positive_at_a_point(ratio, names)


def is_linear(node: Node) -> bool:
    """Whether an expression is of the first degree in all of its variables together."""
    moved, shifted, origin = node, node, node
    for name in symbols(node):
        other = Symbol(f"{name} moved")
        moved = substitute(moved, Symbol(name), other)
        shifted = substitute(shifted, Symbol(name), Apply("add", (Symbol(name), other)))
        origin = substitute(origin, Symbol(name), ZERO)
    parts = Apply("add", (node, moved, Apply("neg", (origin,))))
    return equal(shifted, parts) is True


def solves(solved: Apply, other: Apply) -> bool:
    """Whether `y = ...` is another equation solved for y, in which that is linear."""
    if solved.info != ("=",) or other.info != ("=",) or not isinstance(solved.args[0], Symbol):
        return False
    name, value = solved.args
    assert isinstance(name, Symbol), "checked above"
    if name.name in symbols(value) or name.name not in symbols(other):
        return False
    gap = side_difference(other, 0, 1)
    if equal(substitute(gap, name, value), ZERO) is not True:
        return False
    at = [substitute(gap, name, Number(fmpq(point))) for point in (0, 1, 2)]
    twice = Apply("add", (at[0], at[2]))
    return equal(twice, Apply("mul", (Number(fmpq(2)), at[1]))) is True


ZERO = Number(fmpq(0))


def positive_at_a_point(ratio: Node, names: list[str]) -> bool | str | None:
    for turn, name in enumerate(names):
        ratio = substitute(ratio, Symbol(name), Number(fmpq(13 + 10 * turn, 7)))
    try:
        return True if real_part(difference(ratio, Number(fmpq(0)))) > 0 else "other"
    except (Undefined, Unknown):
        return None


def side_difference(chain: Apply, left: int, right: int) -> Node:
    return Apply("add", (chain.args[left], Apply("neg", (chain.args[right],))))


def turned_round(chain: Apply) -> Apply:
    signs = tuple(FLIPPED.get(sign, sign) for sign in reversed(chain.info))
    return Apply("chain", tuple(reversed(chain.args)), signs)


def is_chain(node: Node) -> bool:
    return isinstance(node, Apply) and node.head == "chain"


def is_inequality(node: Node) -> bool:
    if isinstance(node, Apply) and node.head == "list":
        return all(map(is_inequality, node.args))
    return (
        isinstance(node, Apply)
        and node.head == "chain"
        and (bool(set(node.info) & {"<", ">", "le", "ge", "ne"}))
    )


def symbols_bound(node: Node) -> set[str]:
    return symbols(node) if is_chain(node) or is_inequality(node) else set()


def unknowns(names: Sequence[tuple[Node, Node] | None]) -> set[str]:
    """The variables that values are of, without their indices; empty where one is no variable."""
    found = [name[0] for name in names if name is not None]
    if not all(isinstance(name, Symbol) for name in found):
        return set()
    return {name.name.partition("_")[0] for name in found if isinstance(name, Symbol)}


def is_line(node: Node) -> bool:
    return isinstance(node, Symbol) and node.name == "bbR"


def is_collection(node: Node) -> bool:
    return isinstance(node, Apply) and node.head in COLLECTIONS


def case_rows(node: Node) -> list[Apply]:
    """The rows of a function by cases; none where it is something else."""
    if not (isinstance(node, Apply) and node.head == "cases"):
        return []
    return [row for row in node.args if isinstance(row, Apply)]


def is_set(node: Node) -> bool:
    return isinstance(node, Apply) and node.head == "set"


def kind_of(node: Node) -> str:
    """`list`, `set`, the brackets of a group, `matrix`, or `value`."""
    if not isinstance(node, Apply):
        return "value"
    if node.head == "group":
        return str(node.info)
    if node.head in ("list", "set"):
        return node.head
    return "matrix" if node.head == "matrix" else "value"


def items_of(node: Node) -> list[Node]:
    """The members of a collection; a name before the first of several values is theirs."""
    if not (isinstance(node, Apply) and node.head in COLLECTIONS):
        return [node]
    items = list(node.args)
    if node.head == "list" and len(items) > 1 and all(not is_chain(item) for item in items[1:]):
        first = named_value(items[0])
        if first is not None:
            items[0] = first[1]
    return items


def are_unknowns(*nodes: Node) -> bool:
    """Whether all members of some collections are variables, which may be propositions."""
    return all(isinstance(item, Symbol) for node in nodes for item in items_of(node))


def without_name(item: Node) -> Node:
    """A member without its name."""
    if isinstance(item, Apply) and item.head == "list" and len(item.args) > 1:
        named = [named_value(arg) for arg in item.args]
        if all(name is not None for name in named):
            return Apply("list", tuple(name[1] for name in named if name is not None), item.info)
    found = named_value(item)
    return item if found is None else found[1]


def sets_of_lists(node: Node) -> Node:
    """Plain braces in an expression of sets were meant as sets."""
    if not isinstance(node, Apply):
        return node
    if node.head in ("union", "inter", "minus"):
        args: list[Node] = []
        for arg in node.args:
            if isinstance(arg, Apply) and arg.head == "list":
                args.append(Apply("set", arg.args))
            elif kind_of(arg) == "value" and not has(arg, *REGIONS) and not is_line(arg):
                args.append(Apply("set", (arg,)))
            else:
                args.append(sets_of_lists(arg))
        return Apply(node.head, tuple(args), node.info)
    return node


def same_bound_name(gold: Apply, answer: Apply) -> Apply:
    """Sums and integrals with their bound variable under the gold's name."""
    if gold.head == answer.head and gold.head in ("sum", "prod", "int"):
        body = rename(answer.args[0], str(answer.info), str(gold.info))
        return Apply(answer.head, (body, *answer.args[1:]), gold.info)
    return answer


def is_wide(pieces: Region) -> bool:
    """Whether a region has more than points in it."""
    return any(order(piece.low, piece.high) != 0 for piece in pieces)


def is_zero_number(node: Node) -> bool:
    return isinstance(node, Number) and bool(node.value == 0)


def last_side(node: Node) -> Node:
    return node.args[-1] if isinstance(node, Apply) and node.head == "chain" else node


def with_one_constant(gold: Node, answer: Node) -> Node | None:
    """The answer with its constant of integration under the gold's name: `+ c` as `+ C`."""
    mine, theirs = (added_constants(node) for node in (gold, answer))
    if len(mine) == len(theirs) == 1 and mine != theirs:
        (new,), (old,) = mine, theirs
        if new not in symbols(answer) and old not in symbols(gold):
            return rename(answer, old, new)
    return None


NUMBERED = re.compile(r"[Cc]_[1-9]")


MOST_CONSTANTS = 3


def with_other_constants(gold: Node, answer: Node) -> Iterator[Node]:
    """The answer with its arbitrary constants under the gold's names: `+ c` as `+ C`, `A` and `B`
    as `C_1` and `C_2`, in any order.
    """
    one = with_one_constant(gold, answer)
    if one is not None:
        yield one
    names = symbols(gold), symbols(answer)
    mine = sorted(name for name in names[0] if NUMBERED.fullmatch(name))
    theirs = sorted(names[1] - (names[0] - set(mine)))
    if not 2 <= len(mine) == len(theirs) <= MOST_CONSTANTS:
        return
    if not all(NUMBERED.fullmatch(name) or name in ARBITRARY for name in theirs):
        return
    for in_turn in permutations(mine):
        renamed = answer
        for old in theirs:
            renamed = rename(renamed, old, f"{old} renamed")
        for old, new in zip(theirs, in_turn, strict=True):
            renamed = rename(renamed, f"{old} renamed", new)
        yield renamed


ARBITRARY = frozenset("ABCDabcKk")
"""Letters that arbitrary constants go by."""


def added_constants(node: Node) -> set[str]:
    """Terms of a sum that are one of the letters of a constant."""
    if not (isinstance(node, Apply) and node.head == "add"):
        return set()
    return {arg.name for arg in node.args if isinstance(arg, Symbol) and arg.name in "CcKk"}


def in_radians(node: Node) -> Node:
    return Apply("degree", (node,))


def percent_of(node: Node) -> Node | None:
    """What stands before a percent sign."""
    if isinstance(node, Apply) and node.head == "percent":
        return node.args[0]
    if isinstance(node, Apply) and node.head == "neg" and (inner := percent_of(node.args[0])):
        return Apply("neg", (inner,))
    return None


def decimal_of(node: Node) -> Number | None:
    """A number that was written as a decimal."""
    if isinstance(node, Apply) and node.head == "neg":
        node = node.args[0]
    if isinstance(node, Apply) and node.head == "mul" and len(node.args) == 2:
        return scientific_of(node)
    return node if isinstance(node, Number) and node.digits else None


def scientific_of(node: Apply) -> Number | None:
    """`2.5 \\times 10^{-3}` as one decimal."""
    first, power = node.args
    if not (isinstance(first, Number) and isinstance(power, Apply) and power.head == "pow"):
        return None
    if not isinstance(power.args[0], Number) or power.args[0].value != 10:
        return None
    exponent = power.args[1]
    sign = 1
    if isinstance(exponent, Apply) and exponent.head == "neg":
        exponent, sign = exponent.args[0], -1
    if not (isinstance(exponent, Number) and exponent.value.q == 1 and abs(exponent.value) < 400):
        return None
    shift = sign * int(exponent.value.p)
    digits = first.digits or len(str(abs(first.value.p)))
    return Number(first.value * fmpq(10) ** shift, digits, first.places - shift, scientific=True)


def terminates(node: Node) -> bool:
    """Whether a value has a finite decimal expansion; one that is not rational has none."""
    try:
        value = difference(node, Number(fmpq(0)))
    except (Undefined, Unknown):
        return True
    if isinstance(value, acb):
        return False
    rest = int(value.q)
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def size_of(value: Value) -> fmpq | arb:
    """The absolute value of a real number."""
    number: fmpq | arb = real_part(value)
    return -number if number < 0 else number


def as_fraction(value: float) -> fmpq:
    top, bottom = value.as_integer_ratio()
    return fmpq(top, bottom)

"""Parts of the real line: intervals, finite sets, what joins them, and inequalities.

A region is a list of pieces from left to right that do not touch, each with two ends. Ends are
trees (`sqrt(2)`, `-oo`) and are compared by value; an order that cannot be told raises `Unknown`.
"""

from dataclasses import dataclass
from functools import cmp_to_key

from flint import fmpq

from .equal import difference, equal
from .names import is_name
from .tree import Apply, Node, Number, Symbol, has_symbol, substitute, symbols
from .values import Undefined, Unknown, real_part

INF: Node = Symbol("oo")
MINUS_INF: Node = Apply("neg", (INF,))
VARIABLE: Node = Symbol("the variable")
FLIPPED = {"<": ">", ">": "<", "le": "ge", "ge": "le", "=": "=", "ne": "ne"}


@dataclass(frozen=True, slots=True)
class Piece:
    """An interval from `low` to `high`; a point where both are the same and belong to it."""

    low: Node
    has_low: bool
    high: Node
    has_high: bool


Region = tuple[Piece, ...]
LINE: Region = (Piece(MINUS_INF, False, INF, False),)


def order(left: Node, right: Node) -> int:
    """-1, 0 or 1 as the first end lies left of, at, or right of the second.

    Raises:
        Unknown: it cannot be told.
    """
    if left == right:
        return 0
    infinite = _infinity(left), _infinity(right)
    if any(infinite):
        return (infinite[0] > infinite[1]) - (infinite[0] < infinite[1])
    if symbols(left) or symbols(right):
        raise Unknown("ends with variables")
    try:
        gap = real_part(difference(left, right))
    except Undefined as error:
        raise Unknown(str(error)) from error
    if gap > 0:
        return 1
    if gap < 0:
        return -1
    if equal(left, right):
        return 0
    raise Unknown("two ends that are too near each other")


def _infinity(node: Node) -> int:
    if node == INF:
        return 1
    if isinstance(node, Apply) and node.head == "neg":
        return -_infinity(node.args[0])
    return 0


def region(node: Node) -> Region:
    """The region that a tree describes.

    Raises:
        Unknown: it describes none that can be told.
    """
    if isinstance(node, Symbol) and node.name == "bbR":
        return LINE
    if not isinstance(node, Apply):
        raise Unknown("no region")
    if node.head == "group":
        return _interval(node)
    if node.head == "set":
        return normal([Piece(arg, True, arg, True) for arg in node.args])
    if node.head == "union":
        return normal([piece for arg in node.args for piece in region(arg)])
    if node.head == "inter":
        return intersection(region(node.args[0]), region(node.args[1]))
    if node.head == "minus":
        return intersection(region(node.args[0]), complement(region(node.args[1])))
    if node.head == "chain":
        return _solved(node)
    if node.head == "list":
        return _joined(node)
    if node.head == "build":
        return _built(node)
    raise Unknown("no region")


def _interval(node: Apply) -> Region:
    if len(node.args) != 2 or node.info not in ("()", "[]", "(]", "[)"):
        raise Unknown("brackets that are no interval")
    low, high = node.args
    closed_low, closed_high = node.info[0] == "[", node.info[1] == "]"
    if order(low, high) > 0:
        raise Unknown("an interval whose ends are the wrong way round")
    if order(low, high) == 0 and not (closed_low and closed_high):
        return ()
    has_low, has_high = closed_low and not _infinity(low), closed_high and not _infinity(high)
    return (Piece(low, has_low, high, has_high),)


def _joined(node: Apply) -> Region:
    """Inequalities joined by words; a comma joins like "and" where that leaves anything."""
    chains = [arg for arg in node.args if isinstance(arg, Apply) and arg.head == "chain"]
    if len({frozenset(symbols(chain)) for chain in chains}) > 1:
        raise Unknown("inequalities in several variables")
    parts = [region(arg) for arg in node.args]
    if not all(isinstance(arg, Apply) and arg.head == "chain" for arg in node.args):
        if node.info == "and":
            raise Unknown("regions joined by and")
        return normal([piece for part in parts for piece in part])
    both = parts[0]
    for part in parts[1:]:
        both = intersection(both, part)
    if node.info == "and" or (node.info in (",", ";") and both):
        return both
    return normal([piece for part in parts for piece in part])


def _built(node: Apply) -> Region:
    """`{x | condition}`."""
    form, condition = node.args
    if isinstance(form, Apply) and form.head == "chain" and form.info == ("in",):
        if form.args[1] != Symbol("bbR"):
            raise Unknown("a set over other numbers")
        form = form.args[0]
    if not isinstance(form, Symbol) or not has_symbol(condition, form.name):
        raise Unknown("a set of more than a variable")
    return region(condition)


def normal(pieces: list[Piece]) -> Region:
    """Pieces in order, those that touch joined."""
    ordered = sorted(pieces, key=cmp_to_key(_by_low))
    joined: list[Piece] = []
    for piece in ordered:
        if joined and _touch(joined[-1], piece):
            joined[-1] = _merged(joined[-1], piece)
        else:
            joined.append(piece)
    return tuple(joined)


def _by_low(left: Piece, right: Piece) -> int:
    return order(left.low, right.low) or int(right.has_low) - int(left.has_low)


def _touch(left: Piece, right: Piece) -> bool:
    gap = order(left.high, right.low)
    return gap > 0 or (gap == 0 and (left.has_high or right.has_low))


def _merged(left: Piece, right: Piece) -> Piece:
    further = order(left.high, right.high)
    has_high = (
        (left.has_high or right.has_high)
        if further == 0
        else (left.has_high if further > 0 else right.has_high)
    )
    high = left.high if further >= 0 else right.high
    return Piece(left.low, left.has_low, high, has_high)


def complement(given: Region) -> Region:
    """What is left of the line."""
    pieces: list[Piece] = []
    low, has_low = MINUS_INF, False
    for piece in given:
        if not (_infinity(piece.low) < 0):
            pieces.append(Piece(low, has_low, piece.low, not piece.has_low))
        low, has_low = piece.high, not piece.has_high
    if not (_infinity(low) > 0):
        pieces.append(Piece(low, has_low and _infinity(low) == 0, INF, False))
    return tuple(piece for piece in pieces if not _is_empty(piece))


def _is_empty(piece: Piece) -> bool:
    gap = order(piece.low, piece.high)
    return gap > 0 or (gap == 0 and not (piece.has_low and piece.has_high))


def intersection(left: Region, right: Region) -> Region:
    """What lies in both."""
    pieces: list[Piece] = []
    for one in left:
        for other in right:
            start, end = order(one.low, other.low), order(one.high, other.high)
            piece = Piece(
                one.low if start >= 0 else other.low,
                (one.has_low and other.has_low)
                if start == 0
                else (one.has_low if start > 0 else other.has_low),
                one.high if end <= 0 else other.high,
                (one.has_high and other.has_high)
                if end == 0
                else (one.has_high if end < 0 else other.has_high),
            )
            if not _is_empty(piece):
                pieces.append(piece)
    return normal(pieces)


# -- inequalities ------------------------------------------------------------------------------


def _solved(chain: Apply) -> Region:
    """The solutions of inequalities in one variable, linear in it or in its absolute value."""
    if chain.info == ("in",):
        return region(chain.args[1])
    if not set(chain.info) <= set(FLIPPED):
        raise Unknown("relations that are no inequalities")
    chain = _with_one_variable(chain)
    found = LINE
    for left, sign, right in zip(chain.args, chain.info, chain.args[1:], strict=False):
        found = intersection(found, _half_line(left, sign, right))
    return found


def _with_one_variable(chain: Apply) -> Apply:
    """The chain with what is bounded, `x` or `f(x)`, as the one variable."""
    named = [arg for arg in chain.args if symbols(arg)]
    if not named or any(arg != named[0] for arg in named[1:]):
        if len(set().union(*(symbols(arg) for arg in chain.args))) == 1:
            (name,) = set().union(*(symbols(arg) for arg in chain.args))
            return _substituted(chain, Symbol(name))
        raise Unknown("inequalities in several variables")
    names = symbols(named[0])
    if isinstance(named[0], Apply) and (named[0].head == "apply" or len(names) > 1):
        if not is_name(named[0]):
            raise Unknown("inequalities in several variables")
        return _substituted(chain, named[0])
    (name,) = names
    return _substituted(chain, Symbol(name))


def _substituted(chain: Apply, what: Node) -> Apply:
    changed = substitute(chain, what, VARIABLE)
    assert isinstance(changed, Apply), "a chain stays one"
    return changed


def _half_line(left: Node, sign: str, right: Node) -> Region:
    """Where `left sign right` holds."""
    if not symbols(left) and not symbols(right):
        gap = order(left, right)
        holds = {"<": gap < 0, ">": gap > 0, "le": gap <= 0, "ge": gap >= 0, "=": gap == 0,
                 "ne": gap != 0}[sign]  # fmt: skip
        return LINE if holds else ()
    whole = Apply("add", (left, Apply("neg", (right,))))
    size = _absolute_in(whole)
    if size is None:
        return _polynomial(whole, sign)
    inner = substitute(whole, size, Symbol("the size"))
    if has_symbol(inner, "the variable"):
        raise Unknown("an absolute value beside its variable")
    sizes = _polynomial(substitute(inner, Symbol("the size"), VARIABLE), sign)
    return normal(
        [
            piece
            for part in _unfolded(sizes)
            for piece in intersection(
                _bounded(size.args[0], ">", part.low, part.has_low),
                _bounded(size.args[0], "<", part.high, part.has_high),
            )
        ]
    )


def _absolute_in(node: Node) -> Apply | None:
    """The absolute value of something with the variable in it."""
    if not isinstance(node, Apply):
        return None
    if node.head == "abs" and has_symbol(node, "the variable"):
        return node
    return next((found for arg in node.args if (found := _absolute_in(arg)) is not None), None)


def _bounded(what: Node, sign: str, end: Node, closed: bool) -> Region:
    """Where something lies on one side of an end."""
    if _infinity(end):
        return LINE
    closed_sign = {"<": "le", ">": "ge"}[sign]
    return _half_line(what, closed_sign if closed else sign, end)


def _polynomial(whole: Node, sign: str) -> Region:
    """Where `whole sign 0` holds, for what is linear or quadratic in the variable."""
    try:
        return _linear(whole, sign)
    except NotLinear:
        return _quadratic(whole, sign)


class NotLinear(Unknown):
    """An inequality that is not linear in its variable."""


def _quadratic(whole: Node, sign: str) -> Region:
    """By the two roots; a parabola that does not cross zero is refused."""
    at = {point: substitute(whole, VARIABLE, Number(fmpq(point))) for point in (-1, 0, 1, 2, 3, 5)}
    constant = at[0]
    square = _times(fmpq(1, 2), Apply("add", (at[1], at[-1], _times(fmpq(-2), constant))))
    linear = _times(fmpq(1, 2), Apply("add", (at[1], _times(fmpq(-1), at[-1]))))
    for point in (2, 3, 5):
        parts = (_times(fmpq(point * point), square), _times(fmpq(point), linear), constant)
        if not equal(at[point], Apply("add", parts)):
            raise Unknown("an inequality that is not quadratic")
    upward = order(square, Number(fmpq(0)))
    inside = Apply(
        "add", (Apply("mul", (linear, linear)), _times(fmpq(-4), Apply("mul", (square, constant))))
    )
    if order(inside, Number(fmpq(0))) <= 0:
        raise Unknown("a square that does not cross zero twice")
    root = Apply("sqrt", (inside,))
    ends = [
        Apply("div", (Apply("add", (_minus(linear), side)), _times(fmpq(2), square)))
        for side in (_minus(root), root)
    ]
    low, high = ends if upward > 0 else reversed(ends)
    between = (sign in ("<", "le")) == (upward > 0)
    closed = sign in ("le", "ge")
    if sign in ("=", "ne"):
        points = (Piece(low, True, low, True), Piece(high, True, high, True))
        return points if sign == "=" else complement(points)
    middle = (Piece(low, closed, high, closed),)
    return middle if between else complement((Piece(low, not closed, high, not closed),))


def _times(factor: fmpq, node: Node) -> Node:
    return Apply("mul", (Number(factor), node))


def _linear(whole: Node, sign: str) -> Region:
    """Where `whole sign 0` holds, for what is linear in the variable."""
    at = [substitute(whole, VARIABLE, Number(fmpq(point))) for point in (0, 1, 2, 5)]
    slope = Apply("add", (at[1], Apply("neg", (at[0],))))
    for place, point in ((2, 2), (3, 5)):
        line = Apply("add", (at[0], Apply("mul", (Number(fmpq(point)), slope))))
        if not equal(at[place], line):
            raise NotLinear("an inequality that is not linear")
    direction = order(slope, Number(fmpq(0)))
    if direction == 0:
        raise Unknown("an inequality without its variable")
    end: Node = Apply("div", (Apply("neg", (at[0],)), slope))
    if direction < 0:
        sign = FLIPPED[sign]
    return {
        "<": (Piece(MINUS_INF, False, end, False),),
        "le": (Piece(MINUS_INF, False, end, True),),
        ">": (Piece(end, False, INF, False),),
        "ge": (Piece(end, True, INF, False),),
        "=": (Piece(end, True, end, True),),
        "ne": (Piece(MINUS_INF, False, end, False), Piece(end, False, INF, False)),
    }[sign]


def _unfolded(sizes: Region) -> Region:
    """The numbers whose absolute values lie in a region."""
    zero: Node = Number(fmpq(0))
    positive = intersection(sizes, (Piece(zero, True, INF, False),))
    mirrored = [
        Piece(_minus(piece.high), piece.has_high, _minus(piece.low), piece.has_low)
        for piece in positive
    ]
    return normal([*mirrored, *positive])


def _minus(node: Node) -> Node:
    if isinstance(node, Apply) and node.head == "neg":
        return node.args[0]
    if isinstance(node, Number):
        return Number(-node.value)
    return Apply("neg", (node,))

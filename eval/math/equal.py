"""Whether two expressions are equal: exactly, or by balls that do or do not meet.

Constants. Both are fractions: compared. Otherwise the difference is enclosed in a ball of growing
precision. A ball that misses zero proves "different". For "equal" the ball must be narrower than
the smallest difference that two such numbers can have: for integers joined by the four operations
and roots that is the root separation bound BFMSS (Burnikel, Funke, Mehlhorn, Schirra, Schmitt, "A
separation bound for real algebraic expressions", ESA 2001), so that equality is proved. For
transcendental constants no bound is known; theirs is put in as if they were algebraic of the same
size (the uniformity conjecture: D. Richardson, "Zero tests for constants in simple scientific
computation", 2007).

Expressions with variables. Both are evaluated at seeded random rationals, by the same exact or ball
arithmetic: one point where they provably differ proves "different", several where they agree to
some 60 digits are taken for equal (two different polynomials of degree d agree at a random point of
30 bits with probability d/2^30: Schwartz and Zippel). Variables are real: a point where a side is
not real, or not defined, says nothing, unless one of the expressions has an `i` in it.
"""

import math
import random
from collections.abc import Iterator

from flint import acb, arb, fmpq, fmpz

from .size import magnitude
from .tree import Apply, Node, Number, Symbol, heads, symbols
from .values import (
    Imprecise,
    OutOfTime,
    Point,
    TooLarge,
    Undefined,
    Unknown,
    Value,
    ball,
    precision,
    value,
)

PRECISIONS = (128, 512, 2048, 8192, 32768, 131072)
"""Bits that are tried for constants."""

MOST_BITS = 120_000.0
"""Where the separation bound asks for more, agreement to so many bits is taken for equality."""

POINT_BITS = 256
AGREE_BITS = 200
NEEDED = 3
"""Points at which expressions must agree."""

RANGES = ((0.2, 1.0), (1.0, 4.0), (-1.0, 0.0), (-4.0, -1.0), (0.0, 1.0), (3.0, 30.0), (0.1, 0.9))
"""Where random points are drawn, in turn; in two turns of three, other variables elsewhere."""


def equal(left: Node, right: Node) -> bool | None:
    """Whether two expressions have the same value; None where that cannot be told.

    `log` without a base may mean the natural one or the one to base 10; it means the same on both
    sides, and the reading in which they are equal wins.

    Raises:
        TooLarge: a value is out of all bounds.
        OutOfTime: the caller's `time_limit` is over.
    """
    bases = (0,) if not (_plain_log(left) or _plain_log(right)) else (0, 10)
    results = [_equal(left, right, base) for base in bases]
    if True in results:
        return True
    return None if None in results else False


def difference(left: Node, right: Node, bits: int = POINT_BITS) -> Value:
    """left - right, both constants.

    Raises:
        Undefined, Unknown: as `value` raises them.
    """
    point = Point()
    with precision(bits):
        return value(left, point) - value(right, point)


def _plain_log(node: Node) -> bool:
    if not isinstance(node, Apply):
        return False
    return (node.head == "log" and len(node.args) == 1) or any(map(_plain_log, node.args))


def _equal(left: Node, right: Node, base: int) -> bool | None:
    names = sorted(symbols(left) | symbols(right))
    try:
        if not names:
            return _constants(left, right, Point({}, base))
        return _at_points(left, right, names, base)
    except (TooLarge, OutOfTime):
        raise
    except Unknown:
        return None


def _constants(left: Node, right: Node, point: Point) -> bool | None:
    """Compare two constants with growing precision."""
    if _is_infinite(left) or _is_infinite(right):
        return _infinite_sign(left) == _infinite_sign(right) != 0
    wanted: float | None = None
    for bits in PRECISIONS:
        with precision(bits):
            try:
                one, other = value(left, point), value(right, point)
            except Undefined:
                return None
            except Imprecise:
                continue
            if isinstance(one, fmpq) and isinstance(other, fmpq):
                return bool(one == other)
            gap = ball(one - other)
            if not gap.contains(0):
                return False
            if wanted is None:
                gap_tree = Apply("add", (left, Apply("neg", (right,))))
                wanted = min(separation_bits(gap_tree), MOST_BITS)
            if _narrower(gap, wanted):
                return True
    return None


def _narrower(given: acb, bits: float) -> bool:
    """Whether a ball around zero lies within 2**-bits."""
    return bool(abs(given) < arb(2) ** (-math.ceil(bits)))


def _is_infinite(node: Node) -> bool:
    return _infinite_sign(node) != 0


def _infinite_sign(node: Node) -> int:
    """1 for infinity, -1 for minus infinity, 0 for all else."""
    if node == Symbol("oo"):
        return 1
    if isinstance(node, Apply) and node.head == "neg":
        return -_infinite_sign(node.args[0])
    return 0


def separation_bits(node: Node) -> float:
    """log2 of how small a constant can be without being zero, as a positive number of bits.

    BFMSS: with u and l by the rules of their table 1 and D the product of the degrees of all
    roots, a value that is not zero is at least 1 / (u^(D-1) l) in size.
    """
    roots: set[Node] = set()
    upper, lower = _bounds(node, roots)
    degree = math.prod(_degree(root) for root in roots)
    return (degree - 1) * upper + lower + 16


def _degree(root: Node) -> int:
    """The factor by which a node raises the algebraic degree; functions count as 2."""
    if isinstance(root, Apply) and root.head == "root" and isinstance(root.args[1], Number):
        return max(2, min(int(abs(root.args[1].value.p)), 64))
    if isinstance(root, Apply) and root.head == "pow" and isinstance(root.args[1], Number):
        return max(2, min(int(root.args[1].value.q), 64))
    return 2


def _bounds(node: Node, roots: set[Node]) -> tuple[float, float]:
    """log2 of u and of l; every node that raises the degree is added to `roots`."""
    if isinstance(node, Number):
        return _bits(node.value.p), _bits(node.value.q)
    if isinstance(node, Symbol):
        return 2.0, 0.0
    parts = [_bounds(arg, roots) for arg in node.args]
    if node.head in ("add", "mul", "div", "neg", "abs", "percent"):
        upper, lower = parts[0]
        for next_upper, next_lower in parts[1:]:
            if node.head == "add":
                upper = max(upper + next_lower, lower + next_upper) + 1
                lower += next_lower
            elif node.head == "mul":
                upper, lower = upper + next_upper, lower + next_lower
            else:
                upper, lower = upper + next_lower, lower + next_upper
        return upper, lower + (7.0 if node.head == "percent" else 0.0)
    if node.head == "pow" and isinstance(node.args[1], Number):
        times = min(float(abs(node.args[1].value.p)), 1e9)
        upper, lower = parts[0]
        if node.args[1].value < 0:
            upper, lower = lower, upper
        if node.args[1].value.q != 1:
            roots.add(node)
        return upper * times, lower * times
    if node.head in WHOLE and not symbols(node) and isinstance(exact := value(node, Point()), fmpq):
        return _bits(exact.p), _bits(exact.q)
    roots.add(node)
    if node.head in ("sqrt", "root"):
        return parts[0]
    total = sum(upper + lower for upper, lower in parts)
    bits = max(total, min(magnitude(node), 1e9)) + 2.0
    return bits, bits


WHOLE = frozenset({"fact", "fact2", "binom", "gcd", "lcm", "floor", "ceil", "mod", "sum", "prod",
                   "max", "min", "based", "round"})  # fmt: skip
"""Functions that are often exact fractions, whose size is then known."""


def _bits(whole: fmpz) -> float:
    return float(abs(whole).bit_length())


# -- expressions with variables --------------------------------------------------------------------


def _at_points(left: Node, right: Node, names: list[str], base: int) -> bool | None:
    """Compare two expressions at random points, all of them: no point may tell them apart."""
    imaginary = _has_i(left) or _has_i(right)
    agreed = 0
    for variables in _points(names, heads(left) | heads(right)):
        answer = _at_point(left, right, Point(variables, base), imaginary)
        if answer is False:
            return False
        agreed += answer is True
    return True if agreed >= NEEDED else None


def _points(names: list[str], used: set[str]) -> Iterator[dict[str, fmpq]]:
    """Points to try: random fractions of 30 bits, then whole numbers."""
    drawn = random.Random("|".join(names))
    whole_first = bool(used & {"fact", "binom", "sum", "prod", "fact2"})
    rational = [
        {
            name: _random(drawn, *RANGES[(turn + place * (turn % 3)) % len(RANGES)])
            for place, name in enumerate(names)
        }
        for turn in range(len(RANGES))
    ]
    whole = [{name: fmpq(drawn.randint(1, 12 + 3 * turn)) for name in names} for turn in range(6)]
    yield from whole + rational if whole_first else rational + whole


def _random(drawn: random.Random, low: float, high: float) -> fmpq:
    start, width = fmpq(int(low * 10), 10), fmpq(int((high - low) * 10), 10)
    return start + width * fmpq(drawn.getrandbits(30) | 1, 1 << 30)


def _at_point(left: Node, right: Node, point: Point, imaginary: bool) -> bool | None:
    """Whether the values agree at a point; None where the point says nothing."""
    for bits in (POINT_BITS, 8 * POINT_BITS):
        with precision(bits):
            try:
                one, other = value(left, point), value(right, point)
            except Undefined:
                return None
            except Imprecise:
                continue
            if isinstance(one, fmpq) and isinstance(other, fmpq):
                return bool(one == other)
            one, other = ball(one), ball(other)
            if not imaginary and not (one.imag.contains(0) and other.imag.contains(0)):
                return None
            if not (one - other).contains(0):
                return False
            if _close(one, other):
                return True
    return None


def _close(one: acb, other: acb) -> bool:
    """Whether two balls agree to `AGREE_BITS` bits, of their size or absolutely."""
    size = abs(one).max(arb(1))
    return bool(abs(one - other) < size * arb(2) ** (-AGREE_BITS))


def _has_i(node: Node) -> bool:
    if isinstance(node, Symbol):
        return node.name == "i"
    return isinstance(node, Apply) and any(map(_has_i, node.args))

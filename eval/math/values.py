"""The value of a tree: an exact fraction where it is one, else a ball that provably contains it.

Balls are Arb's (F. Johansson, "Arb: efficient arbitrary-precision midpoint-radius interval
arithmetic", IEEE Transactions on Computers 66(8), 2017): every operation keeps an error bound, so
two balls that do not meet are two different numbers, whatever was rounded on the way.

Every step is bounded before it is taken: powers and factorials by the size of their result,
repetitions by their number, everything by a deadline. So this runs in the caller's own process.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from flint import acb, arb, ctx, fmpq, fmpz

from .tree import Apply, Node, Number, Symbol, symbols

Value = fmpq | acb

EXACT_BITS = 200_000
"""The largest exact number that is computed; beyond it, powers become balls."""

EXACT_FACTORIAL = 2_000
LARGEST_LOG = 1e15
"""Of a ball: the natural logarithm of its size."""

MAX_TERMS = 2_000
HUGE = arb(2) ** 4096
"""Beyond it a ball's digits are not written out."""

ZERO, ONE = fmpq(0), fmpq(1)


class Undefined(ArithmeticError):
    """There is no value: a division by zero, or a function outside its domain."""


class Unknown(ArithmeticError):
    """There may be a value, but not one that is computed here."""


class TooLarge(Unknown):
    """The value is out of all bounds, for any reader."""


class OutOfTime(Unknown):
    """The time limit is over."""


class Imprecise(Unknown):
    """More digits may tell."""


@dataclass(slots=True)
class Point:
    """Where a tree is evaluated.

    Attributes:
        variables: the value of every variable.
        log_base: what `log` without a base means; 0 stands for e.
    """

    variables: Mapping[str, fmpq] = field(default_factory=dict)
    log_base: int = 0


_DEADLINE: ContextVar[float] = ContextVar("deadline", default=float("inf"))


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let everything that is evaluated inside end in `OutOfTime` once the seconds are over."""
    token = _DEADLINE.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def value(node: Node, point: Point) -> Value:
    """A tree's value at a point, to the working precision (`flint.ctx.prec` bits).

    Raises:
        Undefined: it has none there.
        Unknown: it cannot be told here; `Imprecise` where a higher precision may.
    """
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Symbol):
        return _symbol(node.name, point)
    if time.monotonic() > _DEADLINE.get():
        raise OutOfTime("the quick comparison's time is over")
    rule = RULES.get(node.head)
    if rule is None:
        raise Unknown(f"no value for {node.head}")
    return rule(node, point)


def ball(given: Value) -> acb:
    """An exact fraction as a ball."""
    return given if isinstance(given, acb) else acb(given)


def real_part(given: Value) -> fmpq | arb:
    """The value on the real line.

    Raises:
        Undefined: it is not real.
    """
    if isinstance(given, fmpq):
        return given
    if given.imag.contains(0):
        return given.real
    raise Undefined("not a real number")


def is_zero(given: Value) -> bool:
    """Whether this is exactly zero.

    Raises:
        Imprecise: a ball around zero that is no point.
    """
    if isinstance(given, fmpq):
        return bool(given == 0)
    if not given.contains(0):
        return False
    if given.is_zero():
        return True
    raise Imprecise("a ball around zero")


def _finite(given: acb) -> acb:
    if not given.is_finite():
        raise Imprecise("a ball without bounds")
    return given


def _symbol(name: str, point: Point) -> Value:
    if name == "pi":
        return acb.pi()
    if name == "e":
        return acb(1).exp()
    if name == "i":
        return acb(0, 1)
    if name in ("oo", "undefined"):
        raise Undefined(name)
    found = point.variables.get(name)
    if found is None:
        raise Unknown(f"the variable {name}")
    return found


def _add(node: Apply, point: Point) -> Value:
    total = value(node.args[0], point)
    for arg in node.args[1:]:
        total = total + value(arg, point)
    return total


def _mul(node: Apply, point: Point) -> Value:
    total = value(node.args[0], point)
    for arg in node.args[1:]:
        total = total * value(arg, point)
    if isinstance(total, fmpq) and total.height_bits() > 4 * EXACT_BITS:
        return acb(total)
    return total


def _neg(node: Apply, point: Point) -> Value:
    return -value(node.args[0], point)


def _div(node: Apply, point: Point) -> Value:
    top, bottom = value(node.args[0], point), value(node.args[1], point)
    if is_zero(bottom):
        raise Undefined("a division by zero")
    return top / bottom if isinstance(bottom, fmpq) else _finite(ball(top) / bottom)


def _pow(node: Apply, point: Point) -> Value:
    return power(value(node.args[0], point), value(node.args[1], point))


def power(base: Value, exponent: Value) -> Value:
    """base ** exponent; the real root of a negative base where the exponent's denominator is odd.

    Raises:
        Undefined: 0 to a power that is not positive.
        TooLarge: the result has more digits than anybody needs.
    """
    if isinstance(exponent, acb) and (whole := _as_integer(exponent)) is not None:
        exponent = fmpq(whole)
    if isinstance(exponent, fmpq):
        if exponent.q == 1 and (exact := _whole_power(base, exponent.p)) is not None:
            return exact
        if exponent.q != 1 and isinstance(base, fmpq):
            return _rational_power(base, exponent)
        if exponent.q % 2 == 1 and exponent.q < 100 and _is_negative(base):
            size = power(-ball(base), exponent)
            return -size if exponent.p % 2 else size
    if is_zero(base):
        if isinstance(exponent, fmpq) and exponent > 0:
            return ZERO
        raise Undefined("zero to a power")
    base_ball, exponent_ball = ball(base), ball(exponent)
    _check_size((base_ball.log() * exponent_ball).real)
    return _finite(base_ball**exponent_ball)


def _whole_power(base: Value, exponent: fmpz) -> Value | None:
    """An exact power, or None where it would be too long."""
    if isinstance(base, acb):
        if abs(exponent) <= 64:
            if exponent < 0 and is_zero(base):
                raise Undefined("a division by zero")
            return _finite(base ** int(exponent))
        return None
    if base == 0 and exponent <= 0:
        if exponent == 0:
            return ONE
        raise Undefined("a division by zero")
    if base in (0, 1, -1):
        return base if exponent % 2 or base != -1 else ONE
    if abs(exponent) * base.height_bits() > EXACT_BITS:
        return None
    return base ** int(exponent)


def _rational_power(base: fmpq, exponent: fmpq) -> Value:
    """A root of a power of a fraction, exact where it comes out even."""
    if base < 0:
        if exponent.q % 2 == 0 or exponent.q > 100:
            return _finite(acb(base) ** acb(exponent))
        size = _rational_power(-base, exponent)
        return -size if exponent.p % 2 else size
    if base == 0:
        if exponent > 0:
            return ZERO
        raise Undefined("zero to a power")
    if exponent.q <= 64 and base.height_bits() < 4096:
        degree = int(exponent.q)
        top, bottom = base.p.root(degree), base.q.root(degree)
        if top**degree == base.p and bottom**degree == base.q:
            return power(fmpq(top, bottom), fmpq(exponent.p))
    _check_size((acb(base).log() * acb(exponent)).real)
    if exponent == fmpq(1, 2):
        return acb(base).sqrt()
    return _finite(acb(base) ** acb(exponent))


def _is_negative(given: Value) -> bool:
    if isinstance(given, fmpq):
        return bool(given < 0)
    return bool(given.imag.is_zero() and given.real < 0)


def _as_integer(given: acb) -> fmpz | None:
    """The integer that a ball is exactly, if it is one that is not huge; else None."""
    if not abs(given) < HUGE:
        return None
    if given.imag.is_zero() and given.real.is_exact() and given.real.is_integer():
        whole: fmpz | None = given.real.unique_fmpz()
        return whole
    return None


def _check_size(log: arb) -> None:
    """Refuse a result whose logarithm is out of bounds."""
    if not log.is_finite() or not abs(log) < LARGEST_LOG:
        raise TooLarge("a number beyond all bounds")


def _sqrt(node: Apply, point: Point) -> Value:
    return _root_of(value(node.args[0], point), fmpq(1, 2))


def _root(node: Apply, point: Point) -> Value:
    degree = value(node.args[1], point)
    if is_zero(degree):
        raise Undefined("a root of degree zero")
    exponent = ONE / degree if isinstance(degree, fmpq) else 1 / degree
    return power(value(node.args[0], point), exponent)


def _root_of(given: Value, exponent: fmpq) -> Value:
    if isinstance(given, fmpq):
        return _rational_power(given, exponent)
    return given.sqrt()


def _abs(node: Apply, point: Point) -> Value:
    given = value(node.args[0], point)
    return abs(given) if isinstance(given, fmpq) else acb(abs(given))


def _conjugate(node: Apply, point: Point) -> Value:
    given = value(node.args[0], point)
    return given if isinstance(given, fmpq) else given.conjugate()


def _rounded(node: Apply, point: Point) -> Value:
    """`floor`, `ceil`, and `round` to the nearest (halves up)."""
    given = real_part(value(node.args[0], point))
    if node.head == "round":
        if len(node.args) > 1:
            raise Unknown("round to a number of places")
        given = given + fmpq(1, 2)
    if isinstance(given, fmpq):
        return fmpq(given.ceil() if node.head == "ceil" else given.floor())
    if not abs(given) < HUGE:
        raise TooLarge(f"{node.head} of a huge number")
    result = (given.ceil() if node.head == "ceil" else given.floor()).unique_fmpz()
    if result is None:
        raise Imprecise("a ball around a whole number")
    return fmpq(result)


def _factorial(node: Apply, point: Point) -> Value:
    given = value(node.args[0], point)
    whole = given.p if isinstance(given, fmpq) and given.q == 1 else None
    if whole is not None and whole < 0:
        raise Undefined("the factorial of a negative number")
    if whole is not None and whole <= EXACT_FACTORIAL:
        return fmpq(fmpz.fac_ui(whole))
    return _gamma_at(ball(given) + 1)


def _gamma_at(given: acb) -> acb:
    if not abs(given) < 1e13:
        raise TooLarge("a factorial beyond all bounds")
    return _finite(given.gamma())


def _double_factorial(node: Apply, point: Point) -> Value:
    given = value(node.args[0], point)
    if not (isinstance(given, fmpq) and given.q == 1 and given >= -1):
        raise Unknown("a double factorial that is not whole")
    if given > EXACT_FACTORIAL:
        raise TooLarge("a double factorial beyond all bounds")
    product = fmpz(1)
    for factor in range(int(given.p), 0, -2):
        product *= factor
    return fmpq(product)


def _binomial(node: Apply, point: Point) -> Value:
    top, bottom = (value(arg, point) for arg in node.args)
    if isinstance(bottom, fmpq) and bottom.q == 1 and bottom <= EXACT_FACTORIAL:
        if bottom < 0:
            return ZERO
        if isinstance(top, fmpq) and top.height_bits() * max(bottom, ONE) < EXACT_BITS:
            product = ONE
            for step in range(int(bottom.p)):
                product = product * (top - step) / (step + 1)
            return product
    whole = ball(top), ball(bottom)
    return _finite(
        _gamma_at(whole[0] + 1) / (_gamma_at(whole[1] + 1) * _gamma_at(whole[0] - whole[1] + 1))
    )


def _gcd(node: Apply, point: Point) -> Value:
    """`gcd` and `lcm` of rational constants; of expressions they are not functions of values."""
    if symbols(node):
        raise Unknown(f"{node.head} of expressions")
    total: fmpq | None = None
    for arg in node.args:
        given = value(arg, point)
        if not isinstance(given, fmpq):
            raise Unknown(f"{node.head} of irrational numbers")
        given = abs(given)
        total = given if total is None else _gcd_pair(total, given, node.head)
    assert total is not None, "a function has arguments"
    return total


def _gcd_pair(left: fmpq, right: fmpq, head: str) -> fmpq:
    """gcd(a/b, c/d) = gcd(a d, c b) / (b d)."""
    shared = fmpq((left.p * right.q).gcd(right.p * left.q), left.q * right.q)
    if head == "gcd":
        return shared
    return ZERO if shared == 0 else left * right / shared


def _extreme(node: Apply, point: Point) -> Value:
    """`max` and `min`."""
    best = value(node.args[0], point)
    for arg in node.args[1:]:
        other = value(arg, point)
        order = _sign(other - best)
        if (order > 0) == (node.head == "max") and order != 0:
            best = other
    return best


def _sign(given: Value) -> int:
    number = real_part(given)
    if number > 0:
        return 1
    if number < 0:
        return -1
    return 0 if is_zero(given) else 1


def _signum(node: Apply, point: Point) -> Value:
    return fmpq(_sign(value(node.args[0], point)))


def _mod(node: Apply, point: Point) -> Value:
    """a - m floor(a/m)."""
    given, modulus = (value(arg, point) for arg in node.args)
    if is_zero(modulus):
        raise Undefined("modulo zero")
    quotient = real_part(given / modulus if isinstance(modulus, fmpq) else ball(given) / modulus)
    if isinstance(quotient, fmpq):
        return given - modulus * fmpq(quotient.floor())
    if not abs(quotient) < HUGE:
        raise TooLarge("modulo of a huge number")
    whole = quotient.floor().unique_fmpz()
    if whole is None:
        raise Imprecise("a ball around a whole number")
    return given - modulus * fmpq(whole)


def _exp(node: Apply, point: Point) -> Value:
    given = value(node.args[0], point)
    if isinstance(given, fmpq) and given == 0:
        return ONE
    _check_size(ball(given).real)
    return _finite(ball(given).exp())


def _log(node: Apply, point: Point) -> Value:
    """The natural logarithm, or one to the base that stands behind it."""
    given = value(node.args[0], point)
    if is_zero(given):
        raise Undefined("the logarithm of zero")
    natural = ball(given).log()
    if node.head == "ln":
        return natural
    base: Value
    if len(node.args) > 1:
        base = value(node.args[1], point)
    elif point.log_base:
        base = fmpq(point.log_base)
    else:
        return natural
    if is_zero(base) or is_zero(base - 1):
        raise Undefined("a logarithm to the base 0 or 1")
    return _finite(natural / ball(base).log())


def _circular(node: Apply, point: Point) -> Value:
    """Functions that Arb has; their argument must not be huge, or nothing of it is left."""
    given = ball(value(node.args[0], point))
    if not abs(given) < LARGEST_ARGUMENT.get(node.head, 1e100):
        raise TooLarge(f"{node.head} of a huge number")
    return _finite(ARB[node.head](given))


LARGEST_ARGUMENT = {
    **dict.fromkeys(("sinh", "cosh", "tanh", "coth", "sech", "csch"), LARGEST_LOG),
    "erf": 1e6,
}

ARB: dict[str, Callable[[acb], acb]] = {
    "sin": acb.sin, "cos": acb.cos, "tan": acb.tan, "cot": acb.cot, "sec": acb.sec, "csc": acb.csc,
    "sinh": acb.sinh, "cosh": acb.cosh, "tanh": acb.tanh, "coth": acb.coth, "sech": acb.sech,
    "csch": acb.csch, "arcsin": acb.asin, "arccos": acb.acos, "arctan": acb.atan,
    "arcsinh": acb.asinh, "arccosh": acb.acosh, "arctanh": acb.atanh, "erf": acb.erf,
    "arccot": lambda x: (1 / x).atan(), "arcsec": lambda x: (1 / x).acos(),
    "arccsc": lambda x: (1 / x).asin(), "Re": lambda x: acb(x.real), "Im": lambda x: acb(x.imag),
    "arg": lambda x: acb(x.arg()),
}  # fmt: skip


def _gamma(node: Apply, point: Point) -> Value:
    return _gamma_at(ball(value(node.args[0], point)))


def _percent(node: Apply, point: Point) -> Value:
    return value(node.args[0], point) / fmpq(100)


def _degree(node: Apply, point: Point) -> Value:
    return value(node.args[0], point) * acb.pi() / fmpq(180)


def _based(node: Apply, point: Point) -> Value:
    """A number from its digits and its base."""
    base = value(node.args[0], point)
    if not (isinstance(base, fmpq) and 2 <= base <= 36):
        raise Undefined("no such base")
    try:
        return fmpq(fmpz(int(node.info, int(base.p))))
    except ValueError as error:
        raise Undefined("digits that the base does not have") from error


def _ratio(node: Apply, point: Point) -> Value:
    if len(node.args) != 2:
        raise Unknown("a ratio of several")
    return _div(node, point)


def _repeated(node: Apply, point: Point) -> Value:
    """A finite sum or product, term by term."""
    low, high = (value(arg, point) for arg in node.args[1:])
    if not (isinstance(low, fmpq) and isinstance(high, fmpq) and low.q == high.q == 1):
        raise Unknown("bounds that are not whole")
    if high - low > MAX_TERMS:
        raise TooLarge(f"over {MAX_TERMS:,} terms")
    total: Value = ZERO if node.head == "sum" else ONE
    for step in range(int(low.p), int(high.p) + 1):
        inner = Point({**point.variables, node.info: fmpq(step)}, point.log_base)
        term = value(node.args[0], inner)
        total = total + term if node.head == "sum" else total * term
    return total


def _unknown_function(node: Apply, point: Point) -> Value:
    """A function that nobody defined: an arbitrary number that its name and arguments decide.

    Equal arguments give equal numbers, others give others, so that `f(x+y)` is `f(y+x)` and is not
    `f(x)+f(y)`.
    """
    parts = [str(node.info)]
    for arg in node.args:
        given = value(arg, point)
        if not _is_written_out(given):
            raise Unknown("a function of a huge or tiny number")
        parts.append(str(given) if isinstance(given, fmpq) else given.str(20, radius=False))
    digest = hashlib.sha256("|".join(parts).encode()).digest()
    return fmpq(int.from_bytes(digest[:5]) + 1, 2**39)


def _is_written_out(given: Value) -> bool:
    """Whether a value's digits can be written out: it is zero, or neither huge nor tiny."""
    size = abs(ball(given))
    return bool(given == 0 or (size < HUGE and size * HUGE > 1))


def _determinant(node: Apply, point: Point) -> Value:
    """By expansion along the first row; up to five rows."""
    (matrix,) = node.args
    assert isinstance(matrix, Apply), "a determinant is of a matrix"
    rows = [[value(e, point) for e in row.args] for row in matrix.args if isinstance(row, Apply)]
    if len(rows) > 5 or len(rows) != len(rows[0]):
        raise Unknown("a determinant of this shape")
    return _minors(rows)


def _minors(rows: list[list[Value]]) -> Value:
    if len(rows) == 1:
        return rows[0][0]
    total: Value = ZERO
    for column, entry in enumerate(rows[0]):
        rest = [row[:column] + row[column + 1 :] for row in rows[1:]]
        term = entry * _minors(rest)
        total = total - term if column % 2 else total + term
    return total


RULES: dict[str, Callable[[Apply, Point], Value]] = {
    "add": _add, "mul": _mul, "neg": _neg, "div": _div, "pow": _pow, "sqrt": _sqrt, "root": _root,
    "abs": _abs, "conj": _conjugate, "floor": _rounded, "ceil": _rounded, "round": _rounded,
    "fact": _factorial, "fact2": _double_factorial,
    "binom": _binomial, "gcd": _gcd, "lcm": _gcd, "max": _extreme,
    "min": _extreme, "mod": _mod, "exp": _exp, "ln": _log, "log": _log, "percent": _percent,
    "degree": _degree, "based": _based, "ratio": _ratio, "sum": _repeated, "prod": _repeated,
    "apply": _unknown_function, "indexed": _unknown_function, "sign": _signum, "Gamma": _gamma,
    "det": _determinant, **dict.fromkeys(ARB, _circular),
}  # fmt: skip


@contextlib.contextmanager
def precision(bits: int) -> Iterator[None]:
    """Compute with so many bits; one thread at a time, since Arb's setting is the process's."""
    with _PRECISION, ctx.workprec(bits):
        yield


_PRECISION = threading.RLock()

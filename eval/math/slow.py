"""The slow reader: latex2sympy2-extended and sympy, in a process that somebody else kills.

It gets what the quick reader could not read or not evaluate: limits, derivatives, integrals, sums
to infinity, gcds of polynomials, unusual LaTeX. What sympy makes of a formula (after `doit`) is
turned into a tree again and compared by the same rules as everything else.

Only the LaTeX reader is used, which builds its result from a grammar; nothing here hands text to
sympy's `sympify` or `parse_expr`, which evaluate it as Python.
"""

import re
from collections.abc import Callable
from typing import Any

import sympy
from flint import fmpq, fmpz
from latex2sympy2_extended import latex2sympy

from .decide import compare_readings, needs_sympy
from .policy import MathPolicy
from .reading import Reading, read
from .tree import Apply, Node, Number, Symbol
from .typed import SETTLED, Comparison, Same

LIMIT_S = 5.0
"""Of one comparison of two trees; the pool's limit is on the whole."""

Pair = tuple[str, str, MathPolicy, bool]
"""Right answer, answer, policy, whether a rounded decimal is right."""


def compare(pair: Pair) -> Same:
    """Compare two answers, at least one of which the quick reader had no use for.

    May run for ever, and may raise anything.
    """
    gold, answer, policy, rounds = pair
    comparison = Comparison(policy, rounds, LIMIT_S)
    want, got = read(gold), read(answer)
    if want.formulas and got.formulas:
        found = compare_readings(want, got, comparison)
        if found.same is not None or found.step in SETTLED:
            return found
    left, right = _trees(want), _trees(got)
    if not left or not right:
        side = "answer" if left else "right answer"
        return Same(None, "symbolic", f"the {side} cannot be read as a formula")
    return _best(comparison, left, right)


def _best(comparison: Comparison, left: list[Node], right: list[Node]) -> Same:
    """Every tree of one side against every tree of the other; one that fits decides."""
    best = Same(None, "symbolic", "not decided")
    for one in left:
        for other in right:
            found = comparison.compare(one, other)
            if found.same is True:
                return Same(True, "symbolic", found.reason)
            if best.same is None:
                best = Same(found.same, "symbolic", found.reason)
    return best


def _trees(reading: Reading) -> list[Node]:
    """What the quick reader makes of a text, and before it the slow one where it has to help."""
    trees = list(reading.formulas)
    if not needs_sympy(reading):
        return trees
    try:
        trees.insert(0, tree_of(simplified(latex2sympy(braced(reading.text)))))
    except MemoryError:
        raise  # not the text's fault: the pool tries again, and then says that the judge broke
    except Exception:  # noqa: BLE001 - the grammar's runtime raises whatever it likes at bad text
        pass
    return trees


TOP = re.compile(r"(\\[dt]?frac)\s*([0-9A-Za-z])")
BOTTOM = re.compile(r"(\\[dt]?frac\{[^{}]*\})\s*([0-9A-Za-z])")


def braced(text: str) -> str:
    """`\\frac1n` as `\\frac{1}{n}`, which is all that the grammar knows."""
    return BOTTOM.sub(r"\1{\2}", TOP.sub(r"\1{\2}", text))


def simplified(expression: Any) -> Any:
    """Limits, derivatives, integrals and sums carried out.

    Raises:
        Untranslatable: a derivative of what depends on the variable in a way that is not stated,
            which sympy takes for 0.
    """
    for part in sympy.preorder_traversal(expression):
        if isinstance(part, sympy.Derivative):
            names = part.expr.free_symbols
            if names and names.isdisjoint(part.variables):
                raise Untranslatable("the derivative of an unknown")
    return expression.doit() if hasattr(expression, "doit") else expression


class Untranslatable(ValueError):
    """A sympy object that has no tree."""


FUNCTIONS: dict[str, str] = {
    **{
        name: name
        for name in "sin cos tan cot sec csc sinh cosh tanh coth sech csch exp erf gcd lcm".split()
    },
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "acot": "arccot", "asec": "arcsec",
    "acsc": "arccsc", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "log": "ln",
    "Abs": "abs", "floor": "floor", "ceiling": "ceil", "factorial": "fact", "gamma": "Gamma",
    "factorial2": "fact2", "binomial": "binom", "Max": "max", "Min": "min", "sign": "sign",
    "re": "Re", "im": "Im", "arg": "arg", "Mod": "mod",
}  # fmt: skip
RELATIONS = {
    "Equality": "=", "Unequality": "ne", "StrictLessThan": "<", "LessThan": "le",
    "StrictGreaterThan": ">", "GreaterThan": "ge",
}  # fmt: skip


def tree_of(given: Any) -> Node:
    """A sympy object as a tree.

    Raises:
        Untranslatable: it has none.
    """
    if isinstance(given, list | tuple):
        return Apply("list", tuple(tree_of(item) for item in given), ",")
    for kind, make in MAKERS:
        if isinstance(given, kind):
            return make(given)
    name = type(given).__name__
    if name in RELATIONS:
        return Apply("chain", tuple(map(tree_of, given.args)), (RELATIONS[name],))
    if name in FUNCTIONS:
        return Apply(FUNCTIONS[name], tuple(map(tree_of, given.args)))
    if isinstance(given, sympy.core.function.AppliedUndef):
        return Apply("apply", tuple(map(tree_of, given.args)), str(given.func))
    raise Untranslatable(name)


def _args(head: str) -> Callable[[Any], Node]:
    return lambda given: Apply(head, tuple(map(tree_of, given.args)))


def _float(given: Any) -> Node:
    """A decimal, by the digits that it prints."""
    text = str(given)
    mantissa, _, power = text.partition("e")
    whole, _, behind = mantissa.lstrip("-").partition(".")
    behind = behind.rstrip("0")
    digits, places = (whole + behind).lstrip("0"), len(behind) - int(power or 0)
    value = fmpq(fmpz(digits or "0")) / fmpq(10) ** places
    return Number(-value if text.startswith("-") else value, len(digits) or 1, places)


def _interval(given: Any) -> Node:
    info = ("(" if given.left_open else "[") + (")" if given.right_open else "]")
    if given.start == sympy.S.NegativeInfinity:
        info = "(" + info[1]
    if given.end == sympy.S.Infinity:
        info = info[0] + ")"
    return Apply("group", (tree_of(given.start), tree_of(given.end)), info)


def _matrix(given: Any) -> Node:
    rows = given.tolist()
    return Apply("matrix", tuple(Apply("row", tuple(map(tree_of, row))) for row in rows))


def _folded(head: str) -> Callable[[Any], Node]:
    """Sets joined two by two."""

    def make(given: Any) -> Node:
        parts = [tree_of(arg) for arg in given.args]
        total = parts[0]
        for part in parts[1:]:
            total = Apply(head, (total, part))
        return total

    return make


def _bound(head: str) -> Callable[[Any], Node]:
    """Sums, products and integrals that `doit` left as they are."""

    def make(given: Any) -> Node:
        if len(given.limits) != 1:
            raise Untranslatable("several bound variables")
        variable, *limits = given.limits[0]
        parts = (given.function, *limits)
        return Apply(head, tuple(map(tree_of, parts)), str(variable))

    return make


MAKERS: tuple[tuple[Any, Callable[[Any], Node]], ...] = (
    (sympy.Rational, lambda g: Number(fmpq(int(g.p), int(g.q)))),
    (sympy.Float, _float),
    (sympy.Symbol, lambda g: Symbol(str(g).replace("{", "").replace("}", "").replace("\\", ""))),
    (sympy.core.numbers.Pi, lambda _: Symbol("pi")),
    (sympy.core.numbers.Exp1, lambda _: Symbol("e")),
    (sympy.core.numbers.ImaginaryUnit, lambda _: Symbol("i")),
    (sympy.core.numbers.Infinity, lambda _: Symbol("oo")),
    (sympy.core.numbers.NegativeInfinity, lambda _: Apply("neg", (Symbol("oo"),))),
    (sympy.Add, _args("add")),
    (sympy.Mul, _args("mul")),
    (sympy.Pow, _args("pow")),
    (sympy.MatrixBase, _matrix),
    (sympy.FiniteSet, _args("set")),
    (sympy.core.containers.Tuple, lambda g: Apply("group", tuple(map(tree_of, g.args)), "()")),
    (sympy.Interval, _interval),
    (sympy.Union, _folded("union")),
    (sympy.Intersection, _folded("inter")),
    (sympy.Complement, _folded("minus")),
    (sympy.And, lambda g: Apply("list", tuple(map(tree_of, g.args)), "and")),
    (sympy.Or, lambda g: Apply("list", tuple(map(tree_of, g.args)), "or")),
    (sympy.Sum, _bound("sum")),
    (sympy.Product, _bound("prod")),
    (sympy.Integral, _bound("int")),
)
"""What a kind of sympy object becomes, the first that fits."""

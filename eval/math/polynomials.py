"""gcd and lcm of polynomials, which unlike those of numbers are no functions of values.

Whatever is not a sum, product or power of variables (a root, pi, a sine) is an indeterminate of its
own. Over the integers the content counts, gcd(125, 50x) is 25; where a coefficient is a fraction,
gcd and lcm are monic, as sympy has them.
"""

from collections.abc import Sequence
from typing import Any

from flint import Ordering, fmpq, fmpq_mpoly_ctx, fmpz_mpoly_ctx

from .tree import Apply, Node, Number, has, has_symbol, symbols
from .values import Point, Undefined, Unknown, precision, value

MAX_POWER = 50
MAX_TERMS = 200


def resolved(node: Node) -> Node:
    """The tree with every gcd and lcm that is not of numbers alone worked out."""
    if not has(node, "gcd", "lcm"):
        return node
    assert isinstance(node, Apply), "a symbol has no head"
    args = tuple(resolved(arg) for arg in node.args)
    node = Apply(node.head, args, node.info)
    if node.head not in ("gcd", "lcm") or all(_rational(arg) is not None for arg in args):
        return node
    atoms: list[Node] = []
    terms = [_terms(arg, atoms) for arg in args]
    if any(term is None for term in terms):
        return node
    return _worked_out(node.head, [term for term in terms if term is not None], atoms)


Terms = dict[tuple[tuple[int, int], ...], fmpq]
"""A polynomial: which power of which atom, in order -> coefficient."""


def _rational(node: Node) -> fmpq | None:
    """The fraction that a constant is, or None."""
    if symbols(node) or has_symbol(node, "i"):
        return None
    try:
        with precision(64):
            found = value(node, Point())
    except (Undefined, Unknown):
        return None
    return found if isinstance(found, fmpq) else None


def _terms(node: Node, atoms: list[Node]) -> Terms | None:
    """A tree as a polynomial in its atoms, which are added to the list; None if it is too long."""
    constant = _rational(node)
    if constant is not None:
        return {(): constant} if constant != 0 else {}
    if isinstance(node, Apply) and node.head in ("add", "mul", "neg", "div"):
        parts = [_terms(arg, atoms) for arg in node.args]
        if any(part is None for part in parts):
            return None
        return _joined(node, [part for part in parts if part is not None], atoms)
    if isinstance(node, Apply) and node.head == "pow" and isinstance(node.args[1], Number):
        power = node.args[1].value
        if power.q == 1 and 0 < power <= MAX_POWER:
            base = _terms(node.args[0], atoms)
            total: Terms | None = {(): fmpq(1)}
            for _ in range(int(power.p)):
                total = None if total is None or base is None else _product(total, base)
            return total
    return {((_place(node, atoms), 1),): fmpq(1)}


def _joined(node: Apply, parts: list[Terms], atoms: list[Node]) -> Terms | None:
    if node.head == "neg":
        return {key: -number for key, number in parts[0].items()}
    if node.head == "div":
        divisor = _rational(node.args[1])
        if divisor is None or divisor == 0:
            return {((_place(node, atoms), 1),): fmpq(1)}
        return {key: number / divisor for key, number in parts[0].items()}
    total: Terms | None = parts[0]
    for part in parts[1:]:
        if total is None:
            return None
        total = _sum(total, part) if node.head == "add" else _product(total, part)
    return total


def _place(atom: Node, atoms: list[Node]) -> int:
    if atom not in atoms:
        atoms.append(atom)
    return atoms.index(atom)


def _sum(left: Terms, right: Terms) -> Terms:
    total = dict(left)
    for key, number in right.items():
        total[key] = total.get(key, fmpq(0)) + number
    return {key: number for key, number in total.items() if number != 0}


def _product(left: Terms, right: Terms) -> Terms | None:
    if len(left) * len(right) > MAX_TERMS:
        return None
    total: Terms = {}
    for one, first in left.items():
        for other, second in right.items():
            powers = dict(one)
            for place, power in other:
                powers[place] = powers.get(place, 0) + power
            key = tuple(sorted(powers.items()))
            total[key] = total.get(key, fmpq(0)) + first * second
    return {key: number for key, number in total.items() if number != 0}


def _worked_out(head: str, polynomials: Sequence[Terms], atoms: Sequence[Node]) -> Node:
    """The gcd or lcm, as a tree."""
    names = tuple(f"a{place}" for place in range(len(atoms)))
    whole = all(number.q == 1 for terms in polynomials for number in terms.values())
    given = [_flint(terms, names, whole) for terms in polynomials]
    total: Any = given[0]
    for other in given[1:]:
        shared = total.gcd(other)
        total = shared if head == "gcd" else total * other // shared
    found = {tuple(powers): fmpq(number) for powers, number in total.to_dict().items()}
    if head == "lcm" and not whole:
        leading = found[max(found)]
        found = {powers: number / leading for powers, number in found.items()}
    parts = [_monomial(powers, number, atoms) for powers, number in found.items()]
    return parts[0] if len(parts) == 1 else Apply("add", tuple(parts))


def _flint(terms: Terms, names: tuple[str, ...], whole: bool) -> Any:
    """A polynomial for FLINT, over the integers where all of them are."""
    exponents = {}
    for key, number in terms.items():
        powers = dict(key)
        exponents[tuple(powers.get(place, 0) for place in range(len(names)))] = number
    if whole:
        over_z = fmpz_mpoly_ctx.get(names, Ordering.lex)
        return over_z.from_dict({powers: number.p for powers, number in exponents.items()})
    return fmpq_mpoly_ctx.get(names, Ordering.lex).from_dict(exponents)


def _monomial(powers: tuple[int, ...], number: fmpq, atoms: Sequence[Node]) -> Node:
    factors: list[Node] = [] if number == 1 and any(powers) else [Number(number)]
    for atom, power in zip(atoms, powers, strict=True):
        if power == 1:
            factors.append(atom)
        elif power:
            factors.append(Apply("pow", (atom, Number(fmpq(int(power))))))
    return factors[0] if len(factors) == 1 else Apply("mul", tuple(factors))

"""How large a tree's values can become, told before anything is computed.

What is evaluated in the caller's own process must not only end but also stay small: a power tower
asks for a number that no memory holds, in C code that no exception interrupts. So a tree is
evaluated there only if a bound on the magnitude of every part of it, made of the magnitudes of the
parts, stays below 2**LIMIT. All else goes to a worker, which may be lost.
"""

import math

from .tree import Apply, Node, Number, Symbol

LIMIT = 200_000.0
"""log2 of the largest magnitude that is computed in the caller's process."""

VARIABLE = 5.0
"""log2 of the largest value that a variable is given."""

CONSTANT_BITS = {"pi": 2.0, "e": 2.0, "i": 1.0}
UNKNOWN = 48.0
SLACK = 64.0
"""What a difference may lose: 1/(a-b) is taken to be no larger than 2**SLACK times a or b."""


def is_tame(node: Node) -> bool:
    """Whether everything in a tree stays below the limit."""
    return magnitude(node) <= LIMIT


def magnitude(node: Node) -> float:
    """An upper bound on |log2| of a tree's parts; infinity where one is over the limit."""
    if isinstance(node, Number):
        return float(max(node.value.height_bits(), 1))
    if isinstance(node, Symbol):
        return CONSTANT_BITS.get(node.name, VARIABLE)
    parts = [magnitude(arg) for arg in node.args]
    largest = max(parts, default=1.0)
    if largest > LIMIT:
        return math.inf
    found = _combined(node, parts, largest)
    return found if found <= LIMIT else math.inf


def _combined(node: Apply, parts: list[float], largest: float) -> float:
    head = node.head
    if head == "pow":
        return _power(parts[0], parts[1])
    if head == "binom":
        return max(_power(parts[0], parts[1]), largest)
    if head in ("exp", "sinh", "cosh", "tanh", "coth", "sech", "csch"):
        return max(_power(1.5, largest), largest)
    if head in ("fact", "fact2", "Gamma"):
        return max(_power(largest, largest), largest)
    if head in ("sum", "prod"):
        return max(_power(parts[0], max(parts[1:])), largest)
    if head in ("log", "ln"):
        return max(8.0, math.log2(largest) + 2.0)
    if head == "div":
        return _quotient(node, parts)
    if head in ("apply", "indexed", "text"):
        return max(largest, UNKNOWN)
    if head in ("gcd", "lcm", "mul", "det", "matrix", "row"):
        return sum(parts)
    if head in ("root", "sqrt", "neg", "abs"):
        return largest
    return largest + math.log2(len(parts) + 1.0)


def _quotient(node: Apply, parts: list[float]) -> float:
    """Of a fraction of numbers, its own size; the less is known of what divides, the more."""
    top, bottom = node.args
    if isinstance(top, Number) and isinstance(bottom, Number):
        return max(abs(parts[0] - parts[1]) + 1.0, 1.0)
    if isinstance(bottom, Number):
        return max(parts)
    cancels = isinstance(bottom, Apply) and bottom.head in ("add", "pm", "mp")
    return parts[0] + parts[1] + (SLACK if cancels else 0.0)


def _power(base: float, exponent: float) -> float:
    """log2 of (2**base) ** (2**exponent)."""
    if exponent > 30:
        return math.inf
    return (base + 1) * math.exp2(exponent)

"""What an answer is called: `x = 5`, `f(x) = 2x`, `AB = 4`, `(p, q) = (3, 2)`, `x \\in [0, 1]`."""

from .tree import Apply, Node, Number, Symbol, has, symbols

MANY = ("list", "group", "set", "union", "inter", "minus", "build")
"""Heads of what is more than one value."""


def named_value(node: Node) -> tuple[Node, Node] | None:
    """(name, value) of `x = 5`, `f(x) = 1 = 2 - 1`, `AB = 4`, `k \\approx 3`; else None."""
    if not (isinstance(node, Apply) and node.head == "chain"):
        return None
    args, signs = node.args, node.info
    if signs == ("in",) and is_name(args[0]):
        return args[0], args[1]
    if not set(signs) <= {"=", "approx", "equiv"}:
        return None
    if "approx" in signs:
        exact = signs.index("approx") + 1
        if exact > 1 or not is_name(args[0]):
            args = args[:exact]
    if len(args) == 1:
        return Symbol("unnamed"), args[0]
    if any(is_name(arg) for arg in args[:-1]):
        return next(arg for arg in args[:-1] if is_name(arg)), args[-1]
    if isinstance(args[-1], Symbol) and not symbols(args[0]):
        return args[-1], args[0]
    if not any(symbols(arg) for arg in args) and not has(node, "matrix", *MANY):
        return Symbol("unnamed"), args[-1]
    return None


def value_of(node: Node) -> Node:
    """A value without what it is called."""
    found = named_value(node)
    return node if found is None else found[1]


def _is_event(node: Node) -> bool:
    """`X = 2` in `P(X = 2)`, and what is joined of events."""
    joins = ("chain", "union", "inter", "minus")
    return isinstance(node, Apply) and node.head in joins and is_name(node.args[0])


def is_name(node: Node) -> bool:
    """Whether answers are called this: `x`, `x_1`, `f(x)`, `AB`, `|AB|`, `A:B`, `(p,q)`."""
    if isinstance(node, Symbol):
        return node.name not in ("e", "i", "pi", "oo")
    if isinstance(node, Number):
        return False
    if node.head in ("apply", "indexed", "text"):
        return True
    if node.head == "mul":
        first = node.args[0]
        if isinstance(first, Apply) and first.head == "pow":
            return first.args[0] in (Symbol("f"), Symbol("g"), Symbol("h"))
        if first == Symbol("P") and len(node.args) == 2 and _is_event(node.args[1]):
            return True
        called = isinstance(first, Symbol) and (first.name[0].isupper() or len(first.name) > 1)
        if called and all(isinstance(arg, Number) or is_name(arg) for arg in node.args):
            return True
        return all(is_name(arg) for arg in node.args)
    if node.head in ("abs", "div", "ratio", "group", "list", "angle", "triangle"):
        return all(is_name(arg) for arg in node.args)
    return False

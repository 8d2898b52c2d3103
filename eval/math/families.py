"""What a parameter runs through: `2k + 1, k in Z` and `x = pi/2 + n pi (n in Z)`."""

from dataclasses import dataclass

from .names import value_of
from .tree import Apply, Node, Symbol, symbols

DOMAINS = {
    "bbZ": "Z", "Z": "Z", "bbR": "R", "R": "R", "bbN": "N", "N": "N", "bbC": "C", "bbQ": "Q"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """What a parameter runs through; without a parameter, name and domain are empty."""

    body: Node
    name: str = ""
    domain: str = ""


def family(node: Node) -> Family:
    """`2k + 1, k in Z` taken apart."""
    if isinstance(node, Apply) and node.head == "list" and len(node.args) > 1:
        *rest, last = node.args
        name, domain = _parameter(last)
        if name and any(name in symbols(part) for part in rest):
            body = rest[0] if len(rest) == 1 else Apply(node.head, tuple(rest), node.info)
            return Family(body, name, domain)
    if isinstance(node, Apply) and node.head == "chain" and node.info == ("=",):
        inner = family(node.args[1])
        if inner.name:
            body = Apply("chain", (node.args[0], inner.body), node.info)
            return Family(body, inner.name, inner.domain)
    return Family(node)


def _parameter(node: Node) -> tuple[str, str]:
    """(letter, domain) of `k in Z`; empty for all else."""
    if isinstance(node, Apply) and node.head == "chain" and node.info == ("in",):
        name, domain = node.args
        if isinstance(name, Symbol) and isinstance(domain, Symbol) and domain.name in DOMAINS:
            return name.name, DOMAINS[domain.name]
    return "", ""


def lone_name(body: Node) -> str:
    """The only variable beside what the values are called; empty where there are more or none."""
    items = body.args if isinstance(body, Apply) and body.head == "list" else (body,)
    names = set().union(*(symbols(value_of(item)) for item in items))
    return names.pop() if len(names) == 1 else ""

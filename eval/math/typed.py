"""Whether two trees are the same answer, by what kind of thing each is.

    value against value        exact, or by balls (`equal.py`); decimals by the policy's rounding
    quantity                   values after conversion; other dimensions are another answer
    tuple, list, set           order counts in `(...)`, never in `{...}`; a list without brackets
                               is compared like the other side; a tuple is no set
    interval, union, relation  as regions of the real line (`region.py`)
    equation                   up to a constant factor; `x = 5` names what it answers
    matrix, vector             entry by entry
    anything else              the same if it is built alike from parts that are the same

Everything is decided or left open: None means that a slower reader may know more.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

from flint import acb, arb, fmpq

from .equal import difference, equal
from .families import Family, family, lone_name
from .names import named_value, value_of
from .policy import MathPolicy
from .region import FLIPPED, Region, order, region
from .tree import Apply, Node, Number, Symbol, has, rename, substitute, symbols
from .units import Unit, plain_symbol_unit, scaled, split_unit
from .values import OutOfTime, TooLarge, Undefined, Unknown, Value, real_part, time_limit

MAX_ITEMS = 64
"""Members of a list or set that are compared."""

MAX_VARIANTS = 16
"""Readings that plus-minus signs may give one expression."""

TEMPERATURES = (("celsius", 1), ("fahrenheit", 1))
REGIONS = ("union", "inter", "minus", "build")
COLLECTIONS = ("list", "group", "set")
BRACKETS = frozenset({"()", "[)", "(]", "[]", "<>"})


SETTLED = frozenset({"limit", "names", "scale", "family", "cases", "base"})
"""Steps that leave a pair open for good: no slower reader knows more."""


@dataclass(frozen=True, slots=True)
class Same:
    """What was found.

    Attributes:
        same: whether the two are one answer; None where that was not decided.
        step: which rule looked last.
        reason: why, in words.
    """

    same: bool | None
    step: str
    reason: str

    def __bool__(self) -> bool:
        raise TypeError("three values: ask for .same")


class Comparison:
    """Compares trees under one policy.

    Args:
        policy: what counts as the same.
        rounds: whether a correctly rounded decimal is right here (the policy's `rounding`, applied
            to this problem).
        limit_s: seconds that one comparison may take.
    """

    def __init__(self, policy: MathPolicy, rounds: bool = False, limit_s: float = 0.5) -> None:
        self.policy = policy
        self.rounds = rounds
        self.limit_s = limit_s

    def compare(self, gold: Node, answer: Node) -> Same:
        """Whether an answer is the right one.

        Undecided under a step of `SETTLED`, nobody need try again; under `time`, more time helps.
        """
        try:
            with time_limit(self.limit_s):
                return self._compare(gold, answer)
        except TooLarge as error:
            return Same(None, "limit", str(error))
        except OutOfTime as error:
            return Same(None, "time", str(error))
        except Unknown as error:
            return Same(None, "value", str(error))

    # -- what each side is -------------------------------------------------------------------------

    def _compare(self, gold: Node, answer: Node) -> Same:
        if gold == answer:
            return Same(True, "form", "the same form")
        gold, answer = with_signed_tuples(unwrapped(gold)), with_signed_tuples(unwrapped(answer))
        if (want := family(gold)).name or family(answer).name:
            return self._families(want, family(answer))
        if has(gold, "cases") and has(answer, "cases"):
            return self._cases(gold, answer)
        if _is_chain(gold) or _is_chain(answer):
            return self._relations(gold, answer)
        if len(variants(gold)) > 1 or len(variants(answer)) > 1:
            if {_kind(gold), _kind(answer)} & BRACKETS:
                return Same(False, "plus-minus", "two values are neither a tuple nor an interval")
            return self._members(_items(gold), _items(answer), "plus-minus", ordered=False)
        if has(gold, *REGIONS) or has(answer, *REGIONS) or _is_line(gold) or _is_line(answer):
            return self._regions(gold, answer)
        if _is_inequality(gold) or _is_inequality(answer):
            return self._regions(gold, answer)
        if _is_collection(gold) or _is_collection(answer):
            return self._collections(gold, answer)
        if has(gold, "matrix") or has(answer, "matrix"):
            return self._matrices(gold, answer)
        if _has_unit_vectors(gold) or _has_unit_vectors(answer):
            return self._matrices(gold, answer)
        if has(gold, "ratio") or has(answer, "ratio"):
            return self._ratios(gold, answer)
        if has(gold, "cong") or has(answer, "cong"):
            return self._congruences(gold, answer)
        if has(gold, "based") or has(answer, "based"):
            return self._bases(gold, answer)
        return self._quantities(gold, answer)

    # -- values ------------------------------------------------------------------------------------

    def _quantities(self, gold: Node, answer: Node) -> Same:
        """Two values, each with a unit or without."""
        read_again = self._symbol_units(gold, answer)
        if read_again is not None:
            return read_again
        want, got = split_unit(gold), split_unit(answer)
        if want is None or got is None:
            return self._structure(gold, answer)
        return self._with_units(*want, *got)

    def _symbol_units(self, gold: Node, answer: Node) -> Same | None:
        """`5 m` was read as 5 times m: read it as five metres where the other side knows no m."""
        for mine, other, swapped in ((gold, answer, False), (answer, gold, True)):
            again = plain_symbol_unit(mine)
            if again is None or symbols(other):
                continue
            value, unit = again
            split = split_unit(other)
            if split is None:
                continue
            if swapped:
                return self._with_units(split[0], split[1], value, unit)
            return self._with_units(value, unit, split[0], split[1])
        return None

    def _with_units(
        self, gold: Node, gold_unit: Unit | None, answer: Node, unit: Unit | None
    ) -> Same:
        (want, want_unit), (got, got_unit) = scaled(gold, gold_unit), scaled(answer, unit)
        if (want is gold) != (got is answer):
            return self._scaled(
                self._measured(want, want_unit, got, got_unit),
                self._measured(gold, want_unit, answer, got_unit),
                gold_unit if got is answer else unit,
            )
        return self._measured(want, want_unit, got, got_unit)

    @staticmethod
    def _scaled(same: Same, bare: Same, unit: Unit | None) -> Same:
        """Only one side says `million`, or `dozen`: the other may count in millions."""
        if same.same is True or bare.same is not True:
            return same
        if unit is not None and ("dozen", 1) in unit.dimensions:
            return bare  # what is counted, as in how many dozen there are
        return Same(None, "scale", "the same number, but only one side has its power of ten")

    def _measured(
        self, gold: Node, gold_unit: Unit | None, answer: Node, unit: Unit | None
    ) -> Same:
        if self.policy.units == "ignored" or (gold_unit is None and unit is None):
            return self._values(gold, answer)
        if gold_unit is None or unit is None:
            return self._one_unit(gold, gold_unit, answer, unit)
        if gold_unit == unit:
            return self._values(gold, answer)
        if gold_unit.dimensions == unit.dimensions:
            ratio = unit.factor / gold_unit.factor
            scaled = Apply("mul", (answer, Number(ratio)))
            return _renamed(self._values(gold, scaled), "units")
        if gold_unit.known and unit.known:
            angles = self._angles(gold, gold_unit, answer, unit)
            return Same(False, "units", "units of other dimensions") if angles is None else angles
        same = self._values(gold, answer)
        if same.same is False:
            return same
        return Same(None, "units", "the same number of things that may differ")

    def _angles(self, gold: Node, gold_unit: Unit, answer: Node, unit: Unit) -> Same | None:
        """Degrees against radians."""
        kinds = gold_unit.dimensions, unit.dimensions
        angle, radian = (("angle", 1),), (("radian", 1),)
        if kinds == (angle, radian):
            return _renamed(self._values(_in_radians(gold), answer), "units")
        if kinds == (radian, angle):
            return _renamed(self._values(gold, _in_radians(answer)), "units")
        if angle in kinds and any((scale,) in kinds for scale in TEMPERATURES):
            return _renamed(self._values(gold, answer), "units")  # degrees of a thermometer
        return None

    def _one_unit(
        self, gold: Node, gold_unit: Unit | None, answer: Node, unit: Unit | None
    ) -> Same:
        """Only one side says what it measures."""
        there = gold_unit or unit
        assert there is not None, "one side has a unit"
        same = self._values(gold, answer)
        kind = there.dimensions
        other = answer if unit is None else gold
        if _percent_of(other) is not None and kind != (("percent", 1),):
            return Same(False, "units", "a percentage is not a quantity")
        if kind == (("percent", 1),):
            return self._percent(gold, gold_unit is not None, answer, same)
        if same.same is not True and kind == (("angle", 1),):
            turned = (_in_radians(gold), answer) if gold_unit else (gold, _in_radians(answer))
            again = self._values(*turned)
            if again.same is True:
                return _renamed(again, "units")
        if same.same is True and self.policy.units == "required" and unit is None:
            return Same(False, "units", "the unit is missing")
        return same

    def _percent(self, gold: Node, gold_has_sign: bool, answer: Node, same: Same) -> Same:
        """p % is p/100, and by the policy also the bare p."""
        if same.same is True and self.policy.percent == "either":
            return _renamed(same, "percent")
        percent, other = (gold, answer) if gold_has_sign else (answer, gold)
        hundredth = Apply("div", (percent, Number(fmpq(100))))
        pair = (hundredth, other) if gold_has_sign else (other, hundredth)
        return _renamed(self._values(*pair), "percent")

    def _values(self, gold: Node, answer: Node) -> Same:
        """Two values without units."""
        percent = _percent_of(gold), _percent_of(answer)
        if (percent[0] is None) != (percent[1] is None):
            gold, answer = percent[0] or gold, percent[1] or answer
            same = self._values(gold, answer)
            return self._percent(gold, percent[0] is not None, answer, same)
        found = equal(gold, answer)
        if found is True:
            return Same(True, "value", "the same value")
        if self._same_when_rounded(gold, answer):
            return Same(True, "rounding", "the same value, rounded")
        if found is False:
            for again in _with_other_constants(gold, answer):
                if equal(gold, again) is True:
                    return Same(True, "value", "the same value, its constants under other names")
            return Same(False, "value", "another value")
        return self._structure(gold, answer)

    def _same_when_rounded(self, gold: Node, answer: Node) -> bool:
        """Whether a decimal stands for the other side's exact value, as the policy allows."""
        if symbols(gold) or symbols(answer):
            return False
        decimals = [side for side in (gold, answer) if _decimal(side)]
        if not decimals:
            return False
        try:
            gap = _size(difference(gold, answer))
            size = _size(difference(gold, ZERO))
        except (Undefined, Unknown):
            return False
        if self.policy.tolerance and gap <= size * _fraction(self.policy.tolerance):
            return True
        return any(
            self._rounds_to(_decimal(side), other, gap)
            for side, other in ((gold, answer), (answer, gold))
        )

    def _rounds_to(self, decimal: Number | None, other: Node, gap: fmpq | arb) -> bool:
        """Whether the other side, rounded to the decimal's places, is the decimal."""
        if decimal is None:
            return False
        coarser = _decimal(other)
        if coarser is not None and coarser.places <= decimal.places:
            return False  # of two decimals, only the one with fewer places can be a rounded one
        if not self.rounds:
            if coarser is not None or _terminates(other):
                return False
            if decimal.digits < self.policy.decimals - decimal.scientific:
                return False
        half = fmpq(1, 2) / fmpq(10) ** decimal.places
        return bool(gap <= half)

    # -- relations ---------------------------------------------------------------------------------

    def _relations(self, gold: Node, answer: Node) -> Same:
        """At least one side is an equation, an inequality or a membership."""
        named = named_value(gold), named_value(answer)
        if _is_chain(gold) and _is_chain(answer):
            return self._two_relations(gold, answer, named)
        relation, value = (gold, named[0]) if _is_chain(gold) else (answer, named[1])
        other = answer if _is_chain(gold) else gold
        if value is not None:
            pair = (value[1], other) if _is_chain(gold) else (other, value[1])
            return self._compare(*pair)
        if _is_inequality(relation):
            if not _is_collection(other) and not has(other, *REGIONS) and not _is_line(other):
                return Same(False, "inequality", "an inequality is not a value")
            return self._regions(gold, answer)
        if isinstance(relation, Apply) and "=" in relation.info:
            if _is_collection(other) or has(other, *REGIONS):
                return Same(None, "equation", "an equation against a collection")
            return Same(False, "equation", "an equation is not a value")
        return Same(None, "relation", "a relation against a value")

    def _two_relations(
        self,
        gold: Node,
        answer: Node,
        named: tuple[tuple[Node, Node] | None, tuple[Node, Node] | None],
    ) -> Same:
        assert isinstance(gold, Apply) and isinstance(answer, Apply), "both are relations"
        if named[0] is not None and named[1] is not None:
            same = self._compare(named[0][1], named[1][1])
            if same.same is True and _other_unknown(named[0][0], named[1][0]):
                return Same(False, "equation", "the same value of another unknown")
            if same.same is True or not (symbols(named[0][1]) or symbols(named[1][1])):
                return same
        if _is_inequality(gold) and _is_inequality(answer):
            return self._inequalities(gold, answer)
        if "=" in gold.info and "=" in answer.info:
            return self._equations(gold, answer)
        if set(gold.info) == set(answer.info) == {"in"}:
            return self._compare(gold.args[1], answer.args[1])
        if "in" in (*gold.info, *answer.info):
            return self._regions(gold, answer)
        if _is_inequality(gold) != _is_inequality(answer):
            return Same(False, "relation", "an equation is not an inequality")
        return self._structure(gold, answer)

    def _equations(self, gold: Apply, answer: Apply) -> Same:
        """Equations up to a constant factor."""
        if len(gold.args) != len(answer.args):
            return Same(None, "equation", "chains of other lengths")
        results = []
        for places in pairwise(range(len(gold.args))):
            one, other = (_side_difference(side, *places) for side in (gold, answer))
            results.append(proportional(one, other))
        if all(result is True for result in results):
            return Same(True, "equation", "the same equation up to a factor")
        if "other" in results:
            if _solves(gold, answer) or _solves(answer, gold):
                return Same(True, "equation", "one equation solved for a variable")
            if has(gold, "matrix", *COLLECTIONS) or has(answer, "matrix", *COLLECTIONS):
                return self._structure(gold, answer)
            return Same(False, "equation", "another equation")
        return self._structure(gold, answer)

    def _inequalities(self, gold: Apply, answer: Apply) -> Same:
        same = self._regions(gold, answer)
        if same.same is not None:
            return same
        for turned in (answer, _reversed(answer)):
            if turned.info == gold.info:
                parts = [
                    proportional(_side_difference(gold, *at), _side_difference(turned, *at), True)
                    for at in pairwise(range(len(gold.args)))
                ]
                if all(part is True for part in parts):
                    return Same(True, "inequality", "the same inequality up to a factor")
        structural = self._structure(gold, answer)
        if structural.same is None and len(gold.info) == len(answer.info) == 1:
            return self._other_inequality(gold, answer)
        return structural

    def _other_inequality(self, gold: Apply, answer: Apply) -> Same:
        """One inequality each, in several variables, that are not multiples of each other."""
        sides = _side_difference(gold, 0, 1), _side_difference(answer, 0, 1)
        if all(map(is_linear, sides)) and proportional(*sides) in (True, "other"):
            return Same(False, "inequality", "another inequality")
        return Same(None, "inequality", "inequalities that could not be compared")

    def _regions(self, gold: Node, answer: Node) -> Same:
        """Both sides as parts of the real line."""
        plain = [side for side in (gold, answer) if self._is_value(side)]
        try:
            if len(plain) == 1 and _is_wide(
                region(_sets_of_lists(answer if plain[0] is gold else gold))
            ):
                return Same(False, "region", "a region is not a value")
            want, got = self._region(gold), self._region(answer)
        except Unknown as error:
            structural = self._structure(gold, answer)
            if structural.same is not None:
                return structural
            return Same(None, "region", str(error))
        if _symbols_bound(gold) and _symbols_bound(answer):
            names = _symbols_bound(gold), _symbols_bound(answer)
            if names[0] != names[1] and _is_inequality(gold) and _is_inequality(answer):
                return Same(False, "region", "inequalities of other variables")
        if len(want) != len(got):
            return Same(False, "region", "another region")
        for one, other in zip(want, got, strict=True):
            if (one.has_low, one.has_high) != (other.has_low, other.has_high):
                return Same(False, "region", "an end belongs to one side only")
            for pair in ((one.low, other.low), (one.high, other.high)):
                if order(*pair) != 0 and self._values(*pair).same is not True:
                    return Same(False, "region", "other ends")
        return Same(True, "region", "the same region")

    @staticmethod
    def _is_value(node: Node) -> bool:
        return not (
            _is_chain(node)
            or _is_collection(node)
            or _is_line(node)
            or has(node, *REGIONS, "chain")
        )

    def _region(self, node: Node) -> Region:
        if isinstance(node, Apply) and (
            node.head in (*REGIONS, "chain", "group", "set", "list") or _is_line(node)
        ):
            return region(_sets_of_lists(node))
        if _is_line(node):
            return region(node)
        raise Unknown("a value against a region")

    # -- collections -------------------------------------------------------------------------------

    def _collections(self, gold: Node, answer: Node) -> Same:
        """Lists, tuples, intervals and sets."""
        kinds = _kind(gold), _kind(answer)
        if "matrix" in kinds or _has_unit_vectors(gold) or _has_unit_vectors(answer):
            return self._matrices(gold, answer)
        if "value" in kinds:
            return self._collection_and_value(gold, answer)
        if {"set"} < set(kinds) and set(kinds) & BRACKETS:
            return Same(False, "set", "a set is neither a tuple nor an interval")
        if {gold.info, answer.info} == {"and", "or"} and _are_unknowns(gold, answer):
            return Same(None, "list", "and is not or where propositions are joined")
        brackets = {*kinds} - {"list", "set"}
        if "list" in kinds and brackets & {"(]", "[)"}:
            return Same(False, "interval", "an interval is not a list")
        if len(brackets) == 2 and not brackets <= {"()", "<>", "[]"}:
            return Same(False, "interval", "the brackets differ")
        if brackets == {"()", "[]"}:
            return self._round_and_square(gold, answer)
        want, got = _items(gold), _items(answer)
        named = self._named_items(want, got)
        if named is not None:
            return named
        unordered = "set" in kinds or (kinds == ("list", "list") and self.policy.order == "any")
        return self._members(
            [_plain(item) for item in want],
            [_plain(item) for item in got],
            "set" if "set" in kinds else "list" if "list" in kinds else "tuple",
            ordered=not unordered,
            distinct="set" in kinds or (unordered and all(map(_is_collection, (*want, *got)))),
        )

    def _round_and_square(self, gold: Node, answer: Node) -> Same:
        """`(1, 2)` against `[1, 2]`: two intervals, or a tuple in other brackets."""
        want, got = _items(gold), _items(answer)
        if len(want) == 2 and len(got) == 2:
            return Same(False, "interval", "the brackets differ")
        return self._members(want, got, "tuple", ordered=True)

    def _collection_and_value(self, gold: Node, answer: Node) -> Same:
        """Several things against one; a set of one is its member."""
        one, several = (gold, answer) if _kind(gold) == "value" else (answer, gold)
        items = _items(several)
        if len(items) == 1:
            pair = (one, items[0]) if one is gold else (items[0], one)
            return self._compare(*pair)
        if has(one, "matrix"):
            return self._matrices(gold, answer)
        if any(has(item, *REGIONS) for item in items):
            return Same(None, "list", "a list with regions in it")
        return Same(False, "list", f"{len(items)} things are not one")

    def _named_items(self, want: list[Node], got: list[Node]) -> Same | None:
        """`x = 1, y = 2`: by name where both sides name, by place where one does."""
        names = [[named_value(item) for item in items] for items in (want, got)]
        full = [all(name is not None for name in side) for side in names]
        keys = [[str(name[0]) for name in side if name is not None] for side in names]
        if all(full) and set(keys[0]) == set(keys[1]) and len(set(keys[0])) == len(keys[0]) > 1:
            if len(want) != len(got):
                return Same(False, "list", "another number of things")
            values = {str(name[0]): name[1] for name in names[1] if name is not None}
            pairs = [(name[1], values[str(name[0])]) for name in names[0] if name is not None]
            return _all([self._compare(*pair) for pair in pairs], "list")
        if all(full) and _unknowns(names[0]) != _unknowns(names[1]):
            return Same(False, "list", "values of other unknowns")
        if any(full) and not all(full):
            named = names[0] if full[0] else names[1]
            distinct = {str(name[0]) for name in named if name is not None}
            if len(distinct) == len(named) > 1 and len(want) == len(got):
                return self._by_place(want, got, [name[0] for name in named if name is not None])
        return None

    def _by_place(self, want: list[Node], got: list[Node], names: list[Node]) -> Same | None:
        """`y = 2, x = 1` against `1, 2`: names stand for places in the alphabet's order."""
        letters = [name.name if isinstance(name, Symbol) else "" for name in names]
        if len({letter.partition("_")[0] for letter in letters}) == 1 != len(letters):
            return None  # x_1 and x_2 are several values of one unknown, in any order
        plain = [[_plain(item) for item in items] for items in (want, got)]
        written = _all([self._compare(*pair) for pair in zip(*plain, strict=True)], "list")
        order = sorted(range(len(letters)), key=letters.__getitem__)
        if order == list(range(len(letters))) or not all(letters):
            return written
        if any(named_value(item) is not None for item in want):
            return written  # the right answer says in which order things were asked for
        plain[1] = [plain[1][place] for place in order]
        found = _all([self._compare(*pair) for pair in zip(*plain, strict=True)], "list")
        if found.same is not True and written.same is not False:
            return Same(None, "names", "named things against places, in another order")
        return found

    def _members(
        self,
        want: Sequence[Node],
        got: Sequence[Node],
        step: str,
        *,
        ordered: bool,
        distinct: bool = False,
    ) -> Same:
        """Members against members, in order or matched; plus-minus stands for two."""
        if not ordered:
            want = [variant for item in want for variant in variants(item)]
            got = [variant for item in got for variant in variants(item)]
        if max(len(want), len(got)) > MAX_ITEMS:
            return Same(None, step, f"over {MAX_ITEMS} members")
        if ordered:
            if len(want) != len(got):
                return Same(False, step, "another number of things")
            return _all([self._compare(*pair) for pair in zip(want, got, strict=True)], step)
        return self._matched(want, got, step, distinct)

    def _matched(
        self, want: Sequence[Node], got: Sequence[Node], step: str, distinct: bool
    ) -> Same:
        """Every member needs its own partner; in a set, repeated members are one."""
        table = [[self._compare(one, other).same for other in got] for one in want]
        open_ends = any(None in row for row in table)
        if distinct:
            met = all(True in row for row in table) and all(
                any(row[column] is True for row in table) for column in range(len(got))
            )
            if met:
                return Same(True, step, "the same members")
        elif len(want) == len(got):
            free = set(range(len(got)))
            for row in table:
                match = next((column for column in sorted(free) if row[column] is True), None)
                if match is None:
                    break
                free.discard(match)
            else:
                return Same(True, step, "the same members")
        if open_ends and (distinct or len(want) == len(got)):
            return Same(None, step, "members that could not be compared")
        return Same(False, step, "other members")

    # -- matrices, ratios, congruences, bases ------------------------------------------------------

    def _matrices(self, gold: Node, answer: Node) -> Same:
        if len(_items(gold)) == len(_items(answer)) == 1 and _is_set(gold) != _is_set(answer):
            return self._compare(_items(gold)[0], _items(answer)[0])
        if "set" in (_kind(gold), _kind(answer)) and (has(gold, "matrix") != has(answer, "matrix")):
            return Same(False, "matrix", "a set is not a matrix")
        gold, answer = _components(gold, answer), _components(answer, gold)
        want, got = rows_of(gold), rows_of(answer)
        if want is None or got is None:
            functions = has(gold, "apply") or has(answer, "apply")
            if (want is None) != (got is None) and not functions:
                missing = answer if got is None else gold
                if not has(missing, "matrix") and _kind(missing) == "value":
                    return Same(False, "matrix", "a matrix is not a value")
            return self._structure(gold, answer)
        one, other = _flat(want), _flat(got)
        if _shape(want) != _shape(got):
            tuples = {_kind(gold), _kind(answer)} & {"()", "<>", "[]", "list"}
            if one is None or other is None or not tuples:
                return Same(False, "matrix", "another shape")
            if len(one) != len(other):
                return Same(False, "matrix", "another shape")
            return _all([self._compare(*pair) for pair in zip(one, other, strict=True)], "matrix")
        pairs = [pair for rows in zip(want, got, strict=True) for pair in zip(*rows, strict=True)]
        return _all([self._compare(*pair) for pair in pairs], "matrix")

    def _ratios(self, gold: Node, answer: Node) -> Same:
        """`3:4` is `6:8`, and 3/4."""
        sides = [
            node.args if isinstance(node, Apply) and node.head == "ratio" else (node,)
            for node in (gold, answer)
        ]
        if len(sides[0]) == len(sides[1]) > 1:
            if any(_is_zero(side) for side in (*sides[0], *sides[1])):
                pairs = zip(sides[0], sides[1], strict=True)
                return _all([self._values(*pair) for pair in pairs], "ratio")
            crossed = []
            for one, other in pairwise(range(len(sides[0]))):
                crossed.append(
                    self._values(
                        Apply("mul", (sides[0][one], sides[1][other])),
                        Apply("mul", (sides[0][other], sides[1][one])),
                    )
                )
            return _all(crossed, "ratio")
        if sorted(map(len, sides)) == [1, 2]:
            parts = [Apply("div", side) if len(side) == 2 else side[0] for side in sides]
            return _renamed(self._values(parts[0], parts[1]), "ratio")
        return Same(False, "ratio", "a ratio of another number of things")

    def _congruences(self, gold: Node, answer: Node) -> Same:
        """Residues of one modulus; a missing modulus is accepted."""
        split = [
            node.args if isinstance(node, Apply) and node.head == "cong" else (node, None)
            for node in (gold, answer)
        ]
        (want, modulus), (got, other) = split
        if modulus is not None and other is not None:
            if equal(modulus, other) is not True:
                return Same(False, "congruence", "another modulus")
            return _renamed(
                self._values(Apply("mod", (want, modulus)), Apply("mod", (got, modulus))),
                "congruence",
            )
        return _renamed(self._values(_last_side(want), _last_side(got)), "congruence")

    def _bases(self, gold: Node, answer: Node) -> Same:
        """Numbers whose base is written; a base that one side does not have is missing."""
        found = equal(gold, answer)
        if has(gold, "based") == has(answer, "based"):
            if found is None:
                return Same(False, "base", "digits that the base does not have")
            return Same(found, "base", "the same number" if found else "another number")
        if found is True:
            return Same(None, "base", "the same number, but only one side says in which base")
        if found is False:
            return Same(False, "base", "another number, or its base is missing")
        return Same(None, "base", "a base that cannot be read")

    # -- families and cases ------------------------------------------------------------------------

    def _families(self, gold: Family, answer: Family) -> Same:
        """`pi/2 + k pi, k in Z`: what a whole or real parameter runs through, by any name."""
        if gold.domain and answer.domain and gold.domain != answer.domain:
            return Same(None, "family", "parameters of other kinds")
        name, other = gold.name or lone_name(gold.body), answer.name or lone_name(answer.body)
        if not name or not other:
            lone = not symbols(answer.body if name else gold.body)
            return Same(False if lone else None, "family", "a family against none")
        if name != other and name in symbols(answer.body):
            return Same(None, "family", "one letter with two meanings")
        whole = (gold.domain or answer.domain) == "Z"
        want, got = (
            [value_of(one) for item in _items(side) for one in variants(value_of(item))]
            for side in (gold.body, rename(answer.body, other, name))
        )
        if max(len(want), len(got)) > MAX_ITEMS:
            return Same(None, "family", f"over {MAX_ITEMS} members")
        table = [[self._two_families(w, g, name, whole).same for g in got] for w in want]
        if len(want) == len(got) == 1:
            return Same(table[0][0], "family", "what their parameters run through")
        if all(True in row for row in table) and all(
            True in row for row in zip(*table, strict=True)
        ):
            return Same(True, "family", "the same families")
        return Same(None, "family", "families that may join to the same")

    def _two_families(self, gold: Node, answer: Node, name: str, whole: bool) -> Same:
        """a + b k and c + d k, k whole, are the same where b = +-d and b divides a - c."""
        same = self._compare(gold, answer)
        if same.same is True:
            return same
        if not whole:
            return Same(None, "family", "families in other forms")
        line, other_line = _line_in(gold, name), _line_in(answer, name)
        if line is None or other_line is None:
            return Same(None, "family", "families that are no progressions")
        (start, step), (other_start, other_step) = line, other_line
        sizes = equal(Apply("abs", (step,)), Apply("abs", (other_step,)))
        gap = Apply("add", (start, Apply("neg", (other_start,))))
        turns = Apply("div", (Apply("mul", (Symbol("pi"), gap)), step))
        found = sizes and equal(Apply("sin", (turns,)), ZERO)
        return Same(found, "family", "progressions by their start and step")

    def _cases(self, gold: Node, answer: Node) -> Same:
        """Functions by cases: every condition with its value, in any order."""
        want, got = _case_rows(value_of(gold)), _case_rows(value_of(answer))
        if not want or len(want) != len(got) or len(want) > MAX_ITEMS:
            return Same(None, "cases", "cases that could not be compared")
        met = []
        for row in want:
            partner = next((o for o in got if self._compare(row.args[1], o.args[1]).same), None)
            if partner is None:
                return Same(None, "cases", "other conditions")
            met.append(self._compare(row.args[0], partner.args[0]))
        return _all(met, "cases")

    # -- structure ---------------------------------------------------------------------------------

    def _structure(self, gold: Node, answer: Node) -> Same:
        """Built alike from parts that are the same; never a reason to call anything different."""
        if gold == answer:
            return Same(True, "form", "the same form")
        if not (isinstance(gold, Apply) and isinstance(answer, Apply)):
            return Same(None, "form", "forms that could not be compared")
        answer = _same_bound_name(gold, answer)
        alike = gold.head == answer.head and len(gold.args) == len(answer.args)
        if alike and gold.info == answer.info and gold.head not in COLLECTIONS:
            parts = [
                self._structure(*pair) if equal(*pair) is not True else Same(True, "", "")
                for pair in zip(gold.args, answer.args, strict=True)
            ]
            if all(part.same is True for part in parts):
                return Same(True, "form", "the same form of the same parts")
        return Same(None, "form", "forms that could not be compared")


# -- what trees are taken apart with ---------------------------------------------------------------


def unwrapped(node: Node) -> Node:
    """A list of one, and brackets around a single chain, are what is in them."""
    while isinstance(node, Apply) and node.head == "list" and len(node.args) == 1:
        node = node.args[0]
    return node


def _line_in(node: Node, name: str) -> tuple[Node, Node] | None:
    """(start, step) of what is linear in a parameter and has no other variable; else None."""
    if symbols(node) != {name} or not is_linear(node):
        return None
    start, after = (substitute(node, Symbol(name), Number(fmpq(at))) for at in (0, 1))
    return start, Apply("add", (after, Apply("neg", (start,))))


def _other_unknown(name: Node, other: Node) -> bool:
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
    return [_signed(node, upper) for upper in (True, False)][:MAX_VARIANTS]


def with_signed_tuples(node: Node) -> Node:
    """`(pm 1, 2)` as the two tuples that it stands for; with more signs, how they go together is
    not said.
    """
    if not has(node, "pm", "mp") or not isinstance(node, Apply):
        return node
    if node.head == "list" and any(_kind(arg) in BRACKETS for arg in node.args):
        return Apply("list", tuple(t for arg in node.args for t in _signed_tuples(arg)), node.info)
    tuples = _signed_tuples(node)
    return tuples[0] if len(tuples) == 1 else Apply("list", tuple(tuples), ",")


def _signed_tuples(node: Node) -> list[Node]:
    if _kind(node) not in ("()", "<>") or _signs_in(node) != 1:
        return [node]
    return [_signed(node, upper) for upper in (True, False)]


def _signs_in(node: Node) -> int:
    if not isinstance(node, Apply):
        return 0
    return (node.head in ("pm", "mp")) + sum(map(_signs_in, node.args))


def _signed(node: Node, upper: bool) -> Node:
    if not isinstance(node, Apply):
        return node
    args = tuple(_signed(arg, upper) for arg in node.args)
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
    if node.head == "group" and all(_kind(arg) == "[]" for arg in node.args):
        rows = [list(_items(arg)) for arg in node.args]  # `[[1, 2], [3, 4]]`
        return rows if len({len(row) for row in rows}) == 1 else None
    if node.head == "group" or node.head == "list":
        return [[arg] for arg in node.args]
    if node.head == "neg":
        inner = rows_of(node.args[0])
        return None if inner is None else [[Apply("neg", (e,)) for e in row] for row in inner]
    if node.head == "add":
        return _sum_of([rows_of(arg) for arg in node.args])
    if node.head == "mul":
        return _product_of(list(node.args))
    if node.head == "div" and (inner := rows_of(node.args[0])) is not None:
        return [[Apply("div", (e, node.args[1])) for e in row] for row in inner]
    return None


UNIT_VECTORS = ("hat i", "hat j", "hat k")


def _has_unit_vectors(node: Node) -> bool:
    return not symbols(node).isdisjoint(UNIT_VECTORS)


def _components(node: Node, other: Node) -> Node:
    """`2 i + 3 j` as the tuple of its components, as many as the other side has, or three."""
    if not _has_unit_vectors(node):
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


def _sum_of(parts: list[list[list[Node]] | None]) -> list[list[Node]] | None:
    total = parts[0]
    for part in parts[1:]:
        if total is None or part is None or _shape(total) != _shape(part):
            return None
        total = [
            [Apply("add", pair) for pair in zip(*rows, strict=True)]
            for rows in zip(total, part, strict=True)
        ]
    return total


def _product_of(factors: list[Node]) -> list[list[Node]] | None:
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
            total = [[_dot(row, column) for column in columns] for row in total]
    if total is None:
        return None
    return [[Apply("mul", (*scalars, e)) if scalars else e for e in row] for row in total]


def _dot(row: Sequence[Node], column: Sequence[Node]) -> Node:
    return Apply("add", tuple(Apply("mul", pair) for pair in zip(row, column, strict=True)))


def _shape(rows: list[list[Node]]) -> tuple[int, int]:
    return len(rows), len(rows[0])


def _flat(rows: list[list[Node]]) -> list[Node] | None:
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
    return _positive_at_a_point(ratio, names)


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


def _solves(solved: Apply, other: Apply) -> bool:
    """Whether `y = ...` is another equation solved for y, in which that is linear."""
    if solved.info != ("=",) or other.info != ("=",) or not isinstance(solved.args[0], Symbol):
        return False
    name, value = solved.args
    assert isinstance(name, Symbol), "checked above"
    if name.name in symbols(value) or name.name not in symbols(other):
        return False
    gap = _side_difference(other, 0, 1)
    if equal(substitute(gap, name, value), ZERO) is not True:
        return False
    at = [substitute(gap, name, Number(fmpq(point))) for point in (0, 1, 2)]
    twice = Apply("add", (at[0], at[2]))
    return equal(twice, Apply("mul", (Number(fmpq(2)), at[1]))) is True


ZERO = Number(fmpq(0))


def _positive_at_a_point(ratio: Node, names: list[str]) -> bool | str | None:
    for turn, name in enumerate(names):
        ratio = substitute(ratio, Symbol(name), Number(fmpq(13 + 10 * turn, 7)))
    try:
        return True if real_part(difference(ratio, Number(fmpq(0)))) > 0 else "other"
    except (Undefined, Unknown):
        return None


def _side_difference(chain: Apply, left: int, right: int) -> Node:
    return Apply("add", (chain.args[left], Apply("neg", (chain.args[right],))))


def _reversed(chain: Apply) -> Apply:
    signs = tuple(FLIPPED.get(sign, sign) for sign in reversed(chain.info))
    return Apply("chain", tuple(reversed(chain.args)), signs)


def _is_chain(node: Node) -> bool:
    return isinstance(node, Apply) and node.head == "chain"


def _is_inequality(node: Node) -> bool:
    if isinstance(node, Apply) and node.head == "list":
        return all(map(_is_inequality, node.args))
    return (
        isinstance(node, Apply)
        and node.head == "chain"
        and (bool(set(node.info) & {"<", ">", "le", "ge", "ne"}))
    )


def _symbols_bound(node: Node) -> set[str]:
    return symbols(node) if _is_chain(node) or _is_inequality(node) else set()


def _unknowns(names: Sequence[tuple[Node, Node] | None]) -> set[str]:
    """The variables that values are of, without their indices; empty where one is no variable."""
    found = [name[0] for name in names if name is not None]
    if not all(isinstance(name, Symbol) for name in found):
        return set()
    return {name.name.partition("_")[0] for name in found if isinstance(name, Symbol)}


def _is_line(node: Node) -> bool:
    return isinstance(node, Symbol) and node.name == "bbR"


def _is_collection(node: Node) -> bool:
    return isinstance(node, Apply) and node.head in COLLECTIONS


def _case_rows(node: Node) -> list[Apply]:
    """The rows of a function by cases; none where it is something else."""
    if not (isinstance(node, Apply) and node.head == "cases"):
        return []
    return [row for row in node.args if isinstance(row, Apply)]


def _is_set(node: Node) -> bool:
    return isinstance(node, Apply) and node.head == "set"


def _kind(node: Node) -> str:
    """`list`, `set`, the brackets of a group, `matrix`, or `value`."""
    if not isinstance(node, Apply):
        return "value"
    if node.head == "group":
        return str(node.info)
    if node.head in ("list", "set"):
        return node.head
    return "matrix" if node.head == "matrix" else "value"


def _items(node: Node) -> list[Node]:
    """The members of a collection; a name before the first of several values is theirs."""
    if not (isinstance(node, Apply) and node.head in COLLECTIONS):
        return [node]
    items = list(node.args)
    if node.head == "list" and len(items) > 1 and all(not _is_chain(item) for item in items[1:]):
        first = named_value(items[0])
        if first is not None:
            items[0] = first[1]
    return items


def _are_unknowns(*nodes: Node) -> bool:
    """Whether all members of some collections are variables, which may be propositions."""
    return all(isinstance(item, Symbol) for node in nodes for item in _items(node))


def _plain(item: Node) -> Node:
    """A member without its name."""
    if isinstance(item, Apply) and item.head == "list" and len(item.args) > 1:
        named = [named_value(arg) for arg in item.args]
        if all(name is not None for name in named):
            return Apply("list", tuple(name[1] for name in named if name is not None), item.info)
    found = named_value(item)
    return item if found is None else found[1]


def _sets_of_lists(node: Node) -> Node:
    """Plain braces in an expression of sets were meant as sets."""
    if not isinstance(node, Apply):
        return node
    if node.head in ("union", "inter", "minus"):
        args: list[Node] = []
        for arg in node.args:
            if isinstance(arg, Apply) and arg.head == "list":
                args.append(Apply("set", arg.args))
            elif _kind(arg) == "value" and not has(arg, *REGIONS) and not _is_line(arg):
                args.append(Apply("set", (arg,)))
            else:
                args.append(_sets_of_lists(arg))
        return Apply(node.head, tuple(args), node.info)
    return node


def _same_bound_name(gold: Apply, answer: Apply) -> Apply:
    """Sums and integrals with their bound variable under the gold's name."""
    if gold.head == answer.head and gold.head in ("sum", "prod", "int"):
        body = rename(answer.args[0], str(answer.info), str(gold.info))
        return Apply(answer.head, (body, *answer.args[1:]), gold.info)
    return answer


def _is_wide(pieces: Region) -> bool:
    """Whether a region has more than points in it."""
    return any(order(piece.low, piece.high) != 0 for piece in pieces)


def _is_zero(node: Node) -> bool:
    return isinstance(node, Number) and bool(node.value == 0)


def _last_side(node: Node) -> Node:
    return node.args[-1] if isinstance(node, Apply) and node.head == "chain" else node


def _with_one_constant(gold: Node, answer: Node) -> Node | None:
    """The answer with its constant of integration under the gold's name: `+ c` as `+ C`."""
    mine, theirs = (_added_constants(node) for node in (gold, answer))
    if len(mine) == len(theirs) == 1 and mine != theirs:
        (new,), (old,) = mine, theirs
        if new not in symbols(answer) and old not in symbols(gold):
            return rename(answer, old, new)
    return None


NUMBERED = re.compile(r"[Cc]_[1-9]")
MOST_CONSTANTS = 3


def _with_other_constants(gold: Node, answer: Node) -> Iterator[Node]:
    """The answer with its arbitrary constants under the gold's names: `+ c` as `+ C`, `A` and `B`
    as `C_1` and `C_2`, in any order.
    """
    one = _with_one_constant(gold, answer)
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


def _added_constants(node: Node) -> set[str]:
    """Terms of a sum that are one of the letters of a constant."""
    if not (isinstance(node, Apply) and node.head == "add"):
        return set()
    return {arg.name for arg in node.args if isinstance(arg, Symbol) and arg.name in "CcKk"}


def _in_radians(node: Node) -> Node:
    return Apply("degree", (node,))


def _percent_of(node: Node) -> Node | None:
    """What stands before a percent sign."""
    if isinstance(node, Apply) and node.head == "percent":
        return node.args[0]
    if isinstance(node, Apply) and node.head == "neg" and (inner := _percent_of(node.args[0])):
        return Apply("neg", (inner,))
    return None


def _decimal(node: Node) -> Number | None:
    """A number that was written as a decimal."""
    if isinstance(node, Apply) and node.head == "neg":
        node = node.args[0]
    if isinstance(node, Apply) and node.head == "mul" and len(node.args) == 2:
        return _scientific(node)
    return node if isinstance(node, Number) and node.digits else None


def _scientific(node: Apply) -> Number | None:
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


def _terminates(node: Node) -> bool:
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


def _size(value: Value) -> fmpq | arb:
    """The absolute value of a real number."""
    number: fmpq | arb = real_part(value)
    return -number if number < 0 else number


def _fraction(value: float) -> fmpq:
    top, bottom = value.as_integer_ratio()
    return fmpq(top, bottom)


def _all(found: Sequence[Same], step: str) -> Same:
    """The first difference, or that there is none."""
    for same in found:
        if same.same is False:
            return Same(False, step, same.reason)
    for same in found:
        if same.same is None:
            return Same(None, step, same.reason)
    return Same(True, step, "the same in every place")


def _renamed(found: Same, step: str) -> Same:
    return Same(found.same, step, found.reason)

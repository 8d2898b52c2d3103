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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from flint import arb, fmpq

from .equal import difference, equal
from .families import Family, family, lone_name
from .names import named_value, value_of
from .policy import MathPolicy
from .region import Region, order, region
from .shapes import (
    BRACKETS,
    COLLECTIONS,
    REGIONS,
    ZERO,
    are_unknowns,
    as_fraction,
    as_vector,
    case_rows,
    components,
    decimal_of,
    has_unit_vectors,
    in_radians,
    is_chain,
    is_collection,
    is_inequality,
    is_line,
    is_linear,
    is_set,
    is_wide,
    is_zero_number,
    items_of,
    kind_of,
    last_side,
    line_in,
    other_unknown,
    percent_of,
    proportional,
    rows_of,
    same_bound_name,
    sets_of_lists,
    shape_of,
    side_difference,
    size_of,
    solves,
    symbols_bound,
    terminates,
    turned_round,
    unknowns,
    unwrapped,
    variants,
    with_other_constants,
    with_signed_tuples,
    without_name,
)
from .tree import Apply, Node, Number, Symbol, has, rename, symbols
from .units import Unit, plain_symbol_unit, scaled, split_unit
from .values import OutOfTime, TooLarge, Undefined, Unknown, time_limit

MAX_ITEMS = 64
"""Members of a list or set that are compared."""
TEMPERATURES = (("celsius", 1), ("fahrenheit", 1))

SETTLED = frozenset({"limit", "names", "scale", "family", "cases", "digits"})
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
        if is_chain(gold) or is_chain(answer):
            return self._relations(gold, answer)
        if len(variants(gold)) > 1 or len(variants(answer)) > 1:
            if {kind_of(gold), kind_of(answer)} & BRACKETS:
                return Same(False, "plus-minus", "two values are neither a tuple nor an interval")
            return self._members(items_of(gold), items_of(answer), "plus-minus", ordered=False)
        if has(gold, *REGIONS) or has(answer, *REGIONS) or is_line(gold) or is_line(answer):
            return self._regions(gold, answer)
        if is_inequality(gold) or is_inequality(answer):
            return self._regions(gold, answer)
        if is_collection(gold) or is_collection(answer):
            return self._collections(gold, answer)
        if has(gold, "matrix") or has(answer, "matrix"):
            return self._matrices(gold, answer)
        if has_unit_vectors(gold) or has_unit_vectors(answer):
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
            return _renamed(self._values(in_radians(gold), answer), "units")
        if kinds == (radian, angle):
            return _renamed(self._values(gold, in_radians(answer)), "units")
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
        if percent_of(other) is not None and kind != (("percent", 1),):
            return Same(False, "units", "a percentage is not a quantity")
        if kind == (("percent", 1),):
            return self._percent(gold, gold_unit is not None, answer, same)
        if same.same is not True and kind == (("angle", 1),):
            turned = (in_radians(gold), answer) if gold_unit else (gold, in_radians(answer))
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
        percent = percent_of(gold), percent_of(answer)
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
            for again in with_other_constants(gold, answer):
                if equal(gold, again) is True:
                    return Same(True, "value", "the same value, its constants under other names")
            return Same(False, "value", "another value")
        return self._structure(gold, answer)

    def _same_when_rounded(self, gold: Node, answer: Node) -> bool:
        """Whether a decimal stands for the other side's exact value, as the policy allows."""
        if symbols(gold) or symbols(answer):
            return False
        decimals = [side for side in (gold, answer) if decimal_of(side)]
        if not decimals:
            return False
        try:
            gap = size_of(difference(gold, answer))
            size = size_of(difference(gold, ZERO))
        except (Undefined, Unknown):
            return False
        if self.policy.tolerance and gap <= size * as_fraction(self.policy.tolerance):
            return True
        return any(
            self._rounds_to(decimal_of(side), other, gap)
            for side, other in ((gold, answer), (answer, gold))
        )

    def _rounds_to(self, decimal: Number | None, other: Node, gap: fmpq | arb) -> bool:
        """Whether the other side, rounded to the decimal's places, is the decimal."""
        if decimal is None:
            return False
        coarser = decimal_of(other)
        if coarser is not None and coarser.places <= decimal.places:
            return False  # of two decimals, only the one with fewer places can be a rounded one
        if not self.rounds:
            if coarser is not None or terminates(other):
                return False
            if decimal.digits < self.policy.decimals - decimal.scientific:
                return False
        half = fmpq(1, 2) / fmpq(10) ** decimal.places
        return bool(gap <= half)

    # -- relations ---------------------------------------------------------------------------------

    def _relations(self, gold: Node, answer: Node) -> Same:
        """At least one side is an equation, an inequality or a membership."""
        named = named_value(gold), named_value(answer)
        if is_chain(gold) and is_chain(answer):
            return self._two_relations(gold, answer, named)
        relation, value = (gold, named[0]) if is_chain(gold) else (answer, named[1])
        other = answer if is_chain(gold) else gold
        if value is not None:
            pair = (value[1], other) if is_chain(gold) else (other, value[1])
            return self._compare(*pair)
        if is_inequality(relation):
            if not is_collection(other) and not has(other, *REGIONS) and not is_line(other):
                return Same(False, "inequality", "an inequality is not a value")
            return self._regions(gold, answer)
        if isinstance(relation, Apply) and "=" in relation.info:
            if is_collection(other) or has(other, *REGIONS):
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
            if same.same is True and other_unknown(named[0][0], named[1][0]):
                return Same(False, "equation", "the same value of another unknown")
            if same.same is True or not (symbols(named[0][1]) or symbols(named[1][1])):
                return same
        if is_inequality(gold) and is_inequality(answer):
            return self._inequalities(gold, answer)
        if "=" in gold.info and "=" in answer.info:
            return self._equations(gold, answer)
        if set(gold.info) == set(answer.info) == {"in"}:
            return self._compare(gold.args[1], answer.args[1])
        if "in" in (*gold.info, *answer.info):
            return self._regions(gold, answer)
        if is_inequality(gold) != is_inequality(answer):
            return Same(False, "relation", "an equation is not an inequality")
        return self._structure(gold, answer)

    def _equations(self, gold: Apply, answer: Apply) -> Same:
        """Equations up to a constant factor."""
        if len(gold.args) != len(answer.args):
            return Same(None, "equation", "chains of other lengths")
        results = []
        for places in pairwise(range(len(gold.args))):
            one, other = (side_difference(side, *places) for side in (gold, answer))
            results.append(proportional(one, other))
        if all(result is True for result in results):
            return Same(True, "equation", "the same equation up to a factor")
        if "other" in results:
            if solves(gold, answer) or solves(answer, gold):
                return Same(True, "equation", "one equation solved for a variable")
            if has(gold, "matrix", *COLLECTIONS) or has(answer, "matrix", *COLLECTIONS):
                return self._structure(gold, answer)
            return Same(False, "equation", "another equation")
        return self._structure(gold, answer)

    def _inequalities(self, gold: Apply, answer: Apply) -> Same:
        same = self._regions(gold, answer)
        if same.same is not None:
            return same
        for turned in (answer, turned_round(answer)):
            if turned.info == gold.info:
                parts = [
                    proportional(side_difference(gold, *at), side_difference(turned, *at), True)
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
        sides = side_difference(gold, 0, 1), side_difference(answer, 0, 1)
        if all(map(is_linear, sides)) and proportional(*sides) in (True, "other"):
            return Same(False, "inequality", "another inequality")
        return Same(None, "inequality", "inequalities that could not be compared")

    def _regions(self, gold: Node, answer: Node) -> Same:
        """Both sides as parts of the real line."""
        plain = [side for side in (gold, answer) if self._is_value(side)]
        try:
            if len(plain) == 1 and is_wide(
                region(sets_of_lists(answer if plain[0] is gold else gold))
            ):
                return Same(False, "region", "a region is not a value")
            want, got = self._region(gold), self._region(answer)
        except Unknown as error:
            structural = self._structure(gold, answer)
            if structural.same is not None:
                return structural
            return Same(None, "region", str(error))
        if symbols_bound(gold) and symbols_bound(answer):
            names = symbols_bound(gold), symbols_bound(answer)
            if names[0] != names[1] and is_inequality(gold) and is_inequality(answer):
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
            is_chain(node) or is_collection(node) or is_line(node) or has(node, *REGIONS, "chain")
        )

    def _region(self, node: Node) -> Region:
        if isinstance(node, Apply) and (
            node.head in (*REGIONS, "chain", "group", "set", "list") or is_line(node)
        ):
            return region(sets_of_lists(node))
        if is_line(node):
            return region(node)
        raise Unknown("a value against a region")

    # -- collections -------------------------------------------------------------------------------

    def _collections(self, gold: Node, answer: Node) -> Same:
        """Lists, tuples, intervals and sets."""
        kinds = kind_of(gold), kind_of(answer)
        if "matrix" in kinds or has_unit_vectors(gold) or has_unit_vectors(answer):
            return self._matrices(gold, answer)
        if "value" in kinds:
            return self._collection_and_value(gold, answer)
        if {"set"} < set(kinds) and set(kinds) & BRACKETS:
            return Same(False, "set", "a set is neither a tuple nor an interval")
        joints = {node.info for node in (gold, answer) if isinstance(node, Apply)}
        if joints == {"and", "or"} and are_unknowns(gold, answer):
            return Same(None, "list", "and is not or where propositions are joined")
        brackets = {*kinds} - {"list", "set"}
        if "list" in kinds and brackets & {"(]", "[)"}:
            return Same(False, "interval", "an interval is not a list")
        if len(brackets) == 2 and not brackets <= {"()", "<>", "[]"}:
            return Same(False, "interval", "the brackets differ")
        if brackets == {"()", "[]"}:
            return self._round_and_square(gold, answer)
        want, got = items_of(gold), items_of(answer)
        named = self._named_items(want, got)
        if named is not None:
            return named
        unordered = "set" in kinds or (kinds == ("list", "list") and self.policy.order == "any")
        return self._members(
            [without_name(item) for item in want],
            [without_name(item) for item in got],
            "set" if "set" in kinds else "list" if "list" in kinds else "tuple",
            ordered=not unordered,
            distinct="set" in kinds or (unordered and all(map(is_collection, (*want, *got)))),
        )

    def _round_and_square(self, gold: Node, answer: Node) -> Same:
        """`(1, 2)` against `[1, 2]`: two intervals, or a tuple in other brackets."""
        want, got = items_of(gold), items_of(answer)
        if len(want) == 2 and len(got) == 2:
            return Same(False, "interval", "the brackets differ")
        return self._members(want, got, "tuple", ordered=True)

    def _collection_and_value(self, gold: Node, answer: Node) -> Same:
        """Several things against one; a set of one is its member."""
        one, several = (gold, answer) if kind_of(gold) == "value" else (answer, gold)
        items = items_of(several)
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
        if all(full) and unknowns(names[0]) != unknowns(names[1]):
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
        plain = [[without_name(item) for item in items] for items in (want, got)]
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
        if len(items_of(gold)) == len(items_of(answer)) == 1 and is_set(gold) != is_set(answer):
            return self._compare(items_of(gold)[0], items_of(answer)[0])
        if "set" in (kind_of(gold), kind_of(answer)) and (
            has(gold, "matrix") != has(answer, "matrix")
        ):
            return Same(False, "matrix", "a set is not a matrix")
        gold, answer = components(gold, answer), components(answer, gold)
        want, got = rows_of(gold), rows_of(answer)
        if want is None or got is None:
            functions = has(gold, "apply") or has(answer, "apply")
            if (want is None) != (got is None) and not functions:
                missing = answer if got is None else gold
                if not has(missing, "matrix") and kind_of(missing) == "value":
                    return Same(False, "matrix", "a matrix is not a value")
            return self._structure(gold, answer)
        one, other = as_vector(want), as_vector(got)
        if shape_of(want) != shape_of(got):
            tuples = {kind_of(gold), kind_of(answer)} & {"()", "<>", "[]", "list"}
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
            if any(is_zero_number(side) for side in (*sides[0], *sides[1])):
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
        return _renamed(self._values(last_side(want), last_side(got)), "congruence")

    def _bases(self, gold: Node, answer: Node) -> Same:
        """Numbers whose base is written; a base that one side does not have is missing."""
        found = equal(gold, answer)
        if has(gold, "based") == has(answer, "based"):
            if found is None:
                return Same(False, "base", "digits that the base does not have")
            return Same(found, "base", "the same number" if found else "another number")
        if found is True:
            return Same(None, "digits", "the same number, but only one side says in which base")
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
            [value_of(one) for item in items_of(side) for one in variants(value_of(item))]
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
        line, other_line = line_in(gold, name), line_in(answer, name)
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
        want, got = case_rows(value_of(gold)), case_rows(value_of(answer))
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
        answer = same_bound_name(gold, answer)
        alike = gold.head == answer.head and len(gold.args) == len(answer.args)
        if alike and gold.info == answer.info and gold.head not in COLLECTIONS:
            parts = [
                self._structure(*pair) if equal(*pair) is not True else Same(True, "", "")
                for pair in zip(gold.args, answer.args, strict=True)
            ]
            if all(part.same is True for part in parts):
                return Same(True, "form", "the same form of the same parts")
        return Same(None, "form", "forms that could not be compared")


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

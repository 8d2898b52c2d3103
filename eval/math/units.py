"""Units: what the words behind a number measure, and how many of the base unit one of them is.

A unit is a product of powers of base dimensions times a factor: `cm^2` is 1/10000 of length^2.
Words that are no unit of this table (apples, units, people) count things: they are kept as words.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from flint import fmpq

from .tree import Apply, Node, Number, Symbol


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit.

    Attributes:
        dimensions: base dimension -> exponent; the words of what is counted are dimensions too.
        factor: how many base units one is; for angles the base is the turn's 360th part.
        known: whether all of it is in the table.
    """

    dimensions: tuple[tuple[str, int], ...]
    factor: fmpq
    known: bool = True


def _table() -> dict[str, tuple[str, fmpq]]:
    """Spelling -> (dimension, factor)."""
    rows = """
    length 1 m meter meters metre metres
    length 1/100 cm centimeter centimeters centimetre centimetres
    length 1/1000 mm millimeter millimeters millimetre millimetres
    length 1000 km kilometer kilometers kilometre kilometres
    length 254/10000 in inch inches
    length 3048/10000 ft foot feet
    length 9144/10000 yd yard yards
    length 1609344/1000 mi mile miles
    length 1/1000000000 nm nanometer nanometers
    length 1/1000000 um micrometer micrometers micron microns
    mass 1/1000 g gram grams gramme grammes
    mass 1 kg kilogram kilograms kilo kilos
    mass 1/1000000 mg milligram milligrams
    mass 1000 t ton tons tonne tonnes
    mass 45359237/100000000 lb lbs pound pounds
    mass 28349523125/1000000000000 oz ounce ounces
    time 1 s sec secs second seconds
    time 60 min mins minute minutes
    time 3600 h hr hrs hour hours
    time 86400 day days
    time 604800 week weeks wk wks
    month 1 month months
    month 12 year years yr yrs
    volume 1/1000 l L liter liters litre litres
    volume 1/1000000 ml mL milliliter milliliters millilitre millilitres cc
    volume 1/100000 cl
    volume 3785411784/1000000000000 gal gallon gallons
    volume 946352946/1000000000000 qt quart quarts
    volume 473176473/1000000000000 pt pint pints
    volume 2365882365/10000000000000 cup cups
    area 10000 ha hectare hectares
    area 40468564224/10000000 acre acres
    angle 1 degree degrees deg degs circ
    angle 1/60 arcmin
    radian 1 rad rads radian radians
    dollar 1 dollar dollars usd USD bucks
    dollar 1/100 cent cents
    euro 1 euro euros eur EUR
    gbp 1 gbp GBP
    yuan 1 yuan rmb RMB
    rupee 1 rupee rupees Rs
    percent 1 percent percentage pct percents
    temperature 1 K kelvin kelvins
    celsius 1 C celsius
    fahrenheit 1 F fahrenheit
    current 1 A amp amps ampere amperes
    charge 1 coulomb coulombs
    force 1 N newton newtons
    energy 1 J joule joules
    energy 4184/1000 cal calorie calories
    power 1 W watt watts
    pressure 1 Pa pascal pascals
    pressure 101325 atm
    voltage 1 V volt volts
    resistance 1 ohm ohms Omega
    frequency 1 Hz hertz
    amount 1 mol mole moles
    thousand 1 thousand thousands
    million 1 million millions
    billion 1 billion billions
    trillion 1 trillion trillions
    dozen 1 dozen dozens
    """
    table: dict[str, tuple[str, fmpq]] = {}
    for row in rows.strip().splitlines():
        dimension, factor, *spellings = row.split()
        top, _, bottom = factor.partition("/")
        for spelling in spellings:
            table[spelling] = (dimension, fmpq(int(top), int(bottom or 1)))
    return {**_prefixed(table), **table}


PREFIXES = (
    ("n", "nano", -9), ("u", "micro", -6), ("m", "milli", -3), ("c", "centi", -2),
    ("k", "kilo", 3), ("M", "mega", 6), ("G", "giga", 9),
)  # fmt: skip
PREFIXED = (
    "m meter meters metre metres g gram grams s second seconds L l liter liters A amp amps N "
    "newton "
    "newtons J joule joules cal calorie calories W watt watts Pa pascal pascals V volt volts "
    "ohm ohms Omega Hz hertz mol mole moles"
).split()


def _prefixed(table: Mapping[str, tuple[str, fmpq]]) -> dict[str, tuple[str, fmpq]]:
    """`kPa`, `millimoles`: the units of the table with the prefixes of the SI."""
    found = {}
    for name in PREFIXED:
        dimension, factor = table[name]
        for short, long, power in PREFIXES:
            prefix = long if len(name) > 3 and name != "Omega" else short
            found[prefix + name] = (dimension, factor * fmpq(10) ** power)
    return found


TABLE: Mapping[str, tuple[str, fmpq]] = _table()
COMPOUND: Mapping[str, tuple[tuple[str, int], ...]] = {
    "area": (("length", 2),),
    "volume": (("length", 3),),
    "force": (("length", 1), ("mass", 1), ("time", -2)),
    "energy": (("length", 2), ("mass", 1), ("time", -2)),
    "power": (("length", 2), ("mass", 1), ("time", -3)),
    "pressure": (("length", -1), ("mass", 1), ("time", -2)),
    "charge": (("current", 1), ("time", 1)),
    "voltage": (("current", -1), ("length", 2), ("mass", 1), ("time", -3)),
    "resistance": (("current", -2), ("length", 2), ("mass", 1), ("time", -3)),
    "frequency": (("time", -1),),
}
"""Dimensions that are products of others."""

SCALES = {
    "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
}  # fmt: skip
"""Words behind a number that are a factor: `2.5 million`. They are dimensions until `scaled`."""

SPEEDS = {
    "mph": "mile/hour",
    "kph": "km/hour",
    "kmph": "km/hour",
    "kmh": "km/hour",
    "fps": "foot/second",
}
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
SINGULAR = re.compile(r"(?<=[a-z]{2})s$")


def parse_unit(text: str) -> Unit | None:
    """The unit that some words name; None where they are more than a unit."""
    text = SPEEDS.get(text.strip().lower(), text.strip()).replace(r"\circ", "degree")
    words = text.replace("/", " per ").replace("·", " ").split()
    if not words or len(words) > 6:
        return None
    total, last, sign, pending = _EMPTY, _EMPTY, 1, 1
    for place, word in enumerate(words):
        if word in ("per", "an", "a", "each"):
            sign = -1 if word == "per" else sign
            continue
        if word in POWERS and word.endswith("ed"):
            total = _times(total, _raise(last, (POWERS[word] - 1) * sign))  # `feet squared`
            continue
        if (power := POWERS.get(word.rstrip("."))) is not None and place + 1 < len(words):
            pending = power
            continue
        single = _single_unit(word)
        if single is None:
            return None
        last = _raise(single, pending)
        total = _times(total, _raise(last, sign))
        pending = 1
    return total


_EMPTY = Unit((), fmpq(1))


def scaled(node: Node, unit: Unit | None) -> tuple[Node, Unit | None]:
    """`2.5` and `million dollars` as `2.5 * 10^6` and `dollars`."""
    if unit is None or not any(name in SCALES for name, _ in unit.dimensions):
        return node, unit
    factor = fmpq(1)
    for name, exponent in unit.dimensions:
        factor *= fmpq(SCALES.get(name, 1)) ** exponent
    rest = tuple(part for part in unit.dimensions if part[0] not in SCALES)
    left = Unit(rest, unit.factor, unit.known) if rest else None
    return Apply("mul", (node, Number(factor))), left


def _single_unit(word: str) -> Unit | None:
    """One word with its exponent: `cm`, `cm^2`, `apples`."""
    found = re.fullmatch(r"([A-Za-z°%]+)\.?(?:\^?\{?(-?\d)\}?)?", word)
    if found is None:
        return None
    name, power = found[1], int(found[2] or 1)
    entry = TABLE.get(name) or TABLE.get(name.lower())
    if name == "°":
        entry = TABLE["degree"]
    if entry is None:
        return Unit(((SINGULAR.sub("", name.lower()), power),), fmpq(1), False)
    dimension, factor = entry
    parts = COMPOUND.get(dimension, ((dimension, 1),))
    return _raise(Unit(parts, factor), power)


def _raise(unit: Unit, power: int) -> Unit:
    if power == 1:
        return unit
    parts = tuple((name, exponent * power) for name, exponent in unit.dimensions)
    return Unit(parts, unit.factor**power, unit.known)


def _times(left: Unit, right: Unit) -> Unit:
    parts = dict(left.dimensions)
    for name, exponent in right.dimensions:
        parts[name] = parts.get(name, 0) + exponent
    kept = tuple(sorted((name, exponent) for name, exponent in parts.items() if exponent))
    return Unit(kept, left.factor * right.factor, left.known and right.known)


def split_unit(node: Node) -> tuple[Node, Unit | None] | None:
    """A value and its unit; the unit is None where nothing is measured.

    Returns None where words stand in the tree that are no unit of the whole.
    """
    if isinstance(node, Apply) and node.head == "degree":
        return node.args[0], Unit((("angle", 1),), fmpq(1))
    if isinstance(node, Apply) and node.head == "neg":
        inner = split_unit(node.args[0])
        return None if inner is None else (Apply("neg", (inner[0],)), inner[1])
    if not _has_text(node):
        return node, None
    parts = _factors(node, 1)
    if parts is None:
        return None
    unit, values = _EMPTY, []
    for part, sign in parts:
        if isinstance(part, Unit):
            unit = _times(unit, _raise(part, sign))
        else:
            values.append(part if sign == 1 else Apply("div", (_ONE, part)))
    if not values:
        return None  # words alone measure nothing
    return values[0] if len(values) == 1 else Apply("mul", tuple(values)), unit


_ONE = Number(fmpq(1))


def _has_text(node: Node) -> bool:
    return isinstance(node, Apply) and (node.head == "text" or any(map(_has_text, node.args)))


def _factors(node: Node, sign: int) -> list[tuple[Node | Unit, int]] | None:
    """The factors of a product or quotient, with units in place of words; exponents 1 and -1."""
    if not _has_text(node):
        return [(node, sign)]
    assert isinstance(node, Apply), "words are applications"
    if node.head == "text":
        unit = parse_unit(str(node.info))
        return None if unit is None else [(unit, sign)]
    if node.head == "mul":
        found = [_factors(arg, sign) for arg in node.args]
    elif node.head == "div":
        found = [_factors(node.args[0], sign), _factors(node.args[1], -sign)]
    elif node.head == "pow" and isinstance(node.args[1], Number) and node.args[1].value.q == 1:
        power = int(node.args[1].value.p)
        if isinstance(base := node.args[0], Apply) and base.head == "text":
            unit = parse_unit(f"{base.info}^{power}")  # `\text{m/s}^2`: the last unit's exponent
            return None if unit is None else [(unit, sign)]
        inner = _factors(node.args[0], 1)
        if inner is None or abs(power) > 6 or len(inner) != 1:
            return None
        part = inner[0][0]
        return [(_raise(part, power * sign), 1)] if isinstance(part, Unit) else None
    else:
        return None
    if any(part is None for part in found):
        return None
    return [factor for part in found for factor in part or ()]


TRAILING = re.compile(
    r"(?P<value>.*?[\d})\]°%])(?P<gap>\s*)(?P<unit>[A-Za-z][A-Za-z./ ]*(?:\^?\{?\d\}?)?"
    r"(?:\s*(?:/|per)\s*[A-Za-z]+\.?(?:\^?\{?\d\}?)?)?)\.?\s*",
    re.DOTALL,
)
NOT_UNITS = frozenset(
    "pi sqrt mod or and sin cos tan log ln exp i e x y z n k to base for if with is union cup "
    "where a b c d f r u v w p q t min max".split()
)
"""Words that stand behind numbers for other reasons."""


def mark_units(text: str) -> str:
    """`5 cm` in plain text as `5\\text{ cm}`, so that the parser does not read c times m."""
    found = TRAILING.fullmatch(text)
    if found is None or "\\" in found["unit"]:
        return text
    words = found["unit"].split()
    first = re.sub(r"[^A-Za-z].*", "", words[0])
    known = first in TABLE or first.lower() in TABLE or first.lower() in POWERS or first in SPEEDS
    if first in NOT_UNITS and not (first in ("min",) and found["gap"]):
        return text
    if not known and (len(first) < 3 or not found["gap"]):
        return text
    if len(first) == 1 and not (found["gap"] and known):
        return text  # `5m` may be a product
    if len(words) > 6:
        return text
    return f"{found['value']}\\text{{ {found['unit'].strip()} }}"


def plain_symbol_unit(node: Node) -> tuple[Node, Unit] | None:
    """`5 m` read as 5 times m, read again as five metres; None where that is no unit."""
    if not (isinstance(node, Apply) and node.head == "mul" and isinstance(node.args[-1], Symbol)):
        return None
    name = node.args[-1].name
    if (len(name) != 1 and name != "Omega") or name not in TABLE or len(node.args) != 2:
        return None
    unit = parse_unit(name)
    return None if unit is None else (node.args[0], unit)

"""Units: what is a unit, what measures the same, and what only looks like one."""

import pytest
from flint import fmpq
from r1kit.eval.math.parser import parse
from r1kit.eval.math.units import mark_units, parse_unit, split_unit


@pytest.mark.parametrize(
    ("text", "dimensions", "factor"),
    [
        ("cm", {"length": 1}, fmpq(1, 100)),
        ("centimeters", {"length": 1}, fmpq(1, 100)),
        ("cm^2", {"length": 2}, fmpq(1, 10000)),
        ("square feet", {"length": 2}, fmpq(3048, 10000) ** 2),
        ("feet squared", {"length": 2}, fmpq(3048, 10000) ** 2),
        ("cubic meters", {"length": 3}, fmpq(1)),
        ("liters", {"length": 3}, fmpq(1, 1000)),
        ("km/h", {"length": 1, "time": -1}, fmpq(1000, 3600)),
        ("kilometers per hour", {"length": 1, "time": -1}, fmpq(1000, 3600)),
        ("mph", {"length": 1, "time": -1}, fmpq(1609344, 3600000)),
        ("m s^{-2}", {"length": 1, "time": -2}, fmpq(1)),
        ("cents", {"dollar": 1}, fmpq(1, 100)),
        ("apples", {"apple": 1}, fmpq(1)),
    ],
)
def test_words_that_are_units(text: str, dimensions: dict[str, int], factor: fmpq) -> None:
    unit = parse_unit(text)
    assert unit is not None
    assert (dict(unit.dimensions), unit.factor) == (dimensions, factor)


def test_words_of_the_table_are_known_and_others_are_counted_things() -> None:
    for text, known in (("meters", True), ("apples", False), ("miles per apple", False)):
        unit = parse_unit(text)
        assert unit is not None and unit.known is known


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        ("5 cm", r"5\text{ cm }"),
        ("10 weeks", r"10\text{ weeks }"),
        ("60 miles per hour", r"60\text{ miles per hour }"),
        ("5x", "5x"),
        ("5m", "5m"),
        ("3 pi", "3 pi"),
        ("2 and 3", "2 and 3"),
        ("7 mod 3", "7 mod 3"),
    ],
)
def test_plain_words_behind_numbers_are_marked_as_units(text: str, marked: str) -> None:
    assert mark_units(text) == marked


def test_units_are_split_off_products_and_quotients() -> None:
    split = split_unit(parse(r"3\,\frac{\text{m}}{\text{s}^2}"))
    assert split is not None and split[1] is not None
    assert dict(split[1].dimensions) == {"length": 1, "time": -2}
    assert split_unit(parse("3x")) == (parse("3x"), None)
    assert split_unit(parse(r"3+\text{m}")) is None

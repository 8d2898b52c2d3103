"""Intervals, sets and inequalities as parts of the real line."""

import pytest
from r1kit.eval.math.parser import parse
from r1kit.eval.math.policy import MathPolicy
from r1kit.eval.math.region import LINE, complement, intersection, region
from r1kit.eval.math.typed import Comparison
from r1kit.eval.math.values import Unknown


def same(one: str, other: str) -> bool | None:
    return Comparison(MathPolicy()).compare(parse(one), parse(other)).same


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("x>2", r"(2,\infty)", True),
        (r"2<x\le5", "(2,5]", True),
        (r"5\ge x>2", "(2,5]", True),
        ("-x>-1", "x<1", True),
        ("x>1", r"x\ge1", False),
        ("|x|<2", "(-2,2)", True),
        (r"|x-1|\le3", "[-2,4]", True),
        ("|2x+1|>3", r"(-\infty,-2)\cup(1,\infty)", True),
        ("x^2<9", "(-3,3)", True),
        (r"x^2-5x+6\ge0", r"(-\infty,2]\cup[3,\infty)", True),
        (r"4-x^2>0", "(-2,2)", True),
        ("x<1 or x>3", r"(-\infty,1)\cup(3,\infty)", True),
        ("x>1 and x<3", "(1,3)", True),
        (r"x\ne0", r"\mathbb{R}\setminus\{0\}", True),
        (r"[0,1]\cup[1,2]", "[0,2]", True),
        (r"[0,1)\cup(1,2]", "[0,2]", False),
        (r"[0,1)\cup\{1\}\cup(1,2]", "[0,2]", True),
        (r"(3,5)\cup(0,1)", r"(0,1)\cup(3,5)", True),
        (r"[0,\sqrt{2}]\cap[1,5]", r"[1,\sqrt2]", True),
        (r"[0,2]\setminus(0,1)", r"\{0\}\cup[1,2]", True),
        (r"\{x\mid x>2\}", r"(2,\infty)", True),
        (r"x\in\mathbb{R}", r"(-\infty,\infty)", True),
        ("0<f(x)<1", "(0,1)", True),
        ("(1,2)", "[1,2]", False),
        ("(1,2)", "(1,3)", False),
        ("x>2", "2", False),
        ("x<y", "y>x", True),
        ("2x+2y<6", "x+y<3", True),
        ("-2x-2y<6", "x+y<-3", False),
        ("x+y<3", "x+y<4", False),
    ],
)
def test_regions(one: str, other: str, expected: bool) -> None:
    assert same(one, other) is expected
    assert same(other, one) is expected


def test_a_complement_and_its_region_share_nothing_and_make_the_line() -> None:
    for text in ("[0,1)", r"(-\infty,2]", r"(0,1)\cup\{5\}", r"\{1,2,3\}"):
        part = region(parse(text))
        rest = complement(part)
        assert intersection(part, rest) == ()
        assert complement(rest) == part
    assert complement(LINE) == ()


def test_an_end_with_a_variable_has_no_place_on_the_line() -> None:
    with pytest.raises(Unknown):
        region(parse("(a,b)"))
    assert same("(a,b]", "(a, b]") is True
    assert same(r"\{1,2\}\cup(a,b)", r"(c,d)") is None

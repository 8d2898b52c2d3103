"""Formulas to trees: what is read, in which of its senses, and what is refused."""

import pytest
from flint import fmpq
from r1kit.eval.math.equal import equal
from r1kit.eval.math.lexer import Unreadable
from r1kit.eval.math.parser import MAX_DEPTH, parse
from r1kit.eval.math.tree import Apply, Number, Symbol


def value_of(text: str) -> fmpq:
    """The fraction that a formula is."""
    from r1kit.eval.math.values import Point, value

    found = value(parse(text), Point())
    assert isinstance(found, fmpq)
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2^10", fmpq(1024)),  # LaTeX's letter would be 2^1 times 0
        (r"\frac12", fmpq(1, 2)),
        (r"\frac1{72}", fmpq(1, 72)),
        (r"3\frac{1}{2}", fmpq(7, 2)),
        (r"-3\frac{1}{2}", fmpq(-7, 2)),
        (r"2\frac{3}{2}", fmpq(3)),  # not proper: a product
        (r"2^2\frac{1}{2}", fmpq(2)),  # no mixed number in an exponent
        ("3 1/2", fmpq(7, 2)),
        ("1,234", fmpq(1234)),
        (r"1{,}234{,}567", fmpq(1234567)),
        ("2.5e-3", fmpq(1, 400)),
        (r"0.1\overline{6}", fmpq(1, 6)),
        (r"0.\dot{1}4285\dot{7}", fmpq(1, 7)),
        ("-2^2", fmpq(-4)),
        ("(-2)^2", fmpq(4)),
        ("2-3-4", fmpq(-5)),
        ("8/4/2", fmpq(1)),
        ("-7 mod 3", fmpq(2)),
        (r"-(7 \mod 3)", fmpq(-1)),
        (r"\binom{5}{2}", fmpq(10)),
        (r"{5 \choose 2}", fmpq(10)),
        (r"{1 \over 4}", fmpq(1, 4)),
        ("5!!", fmpq(15)),
        ("3!^2", fmpq(36)),
        (r"|{-3}||2|", fmpq(6)),
        (r"\lfloor -2.5 \rfloor", fmpq(-3)),
        (r"\sum_{k=1}^{4} k^2", fmpq(30)),
        (r"\prod_{k=1}^{4} k", fmpq(24)),
        (r"\gcd(830,450)", fmpq(10)),  # commas in brackets separate
        (r"\max(9,876,543)", fmpq(876)),
        ("204_5", fmpq(54)),
        (r"8^{1/3}", fmpq(2)),
        (r"(-8)^{1/3}", fmpq(-2)),
        (r"\sqrt{\frac{9}{4}}", fmpq(3, 2)),
        (r"\sqrt[3]{-27}", fmpq(-3)),
    ],
)
def test_numbers_are_exact(text: str, value: fmpq) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\sin 2x \cos y", r"\sin(2x)\cdot\cos(y)"),
        (r"\sin^2 x", r"(\sin x)^2"),
        (r"\sin^{-1} x", r"\arcsin x"),
        (r"\log_2 8", "3"),
        (r"x_1^2", "x_{1}^{2}"),
        ("x^2_1", "x_1^2"),
        ("2xy", "y*2*x"),
        ("sqrt(x)/2", r"\frac{\sqrt x}{2}"),
        ("√2", r"\sqrt{2}"),
        ("x²", "x^2"),
        (r"a\cdot b\times c", "abc"),
        (r"\operatorname{arcsin} x", "asin(x)"),
        (r"e^{\ln x}", "x"),
        (r"\left(\frac{a}{b}\right)^{-1}", "b/a"),
        (r"30^\circ", r"\frac{\pi}{6}"),
    ],
)
def test_two_ways_to_write_one_thing(one: str, other: str) -> None:
    assert equal(parse(one), parse(other)) is True


def test_a_slash_takes_one_factor_or_all_that_follow_as_asked() -> None:
    assert equal(parse("1/2x"), parse(r"\frac{x}{2}")) is True
    assert equal(parse("1/2x", tight=True), parse(r"\frac{1}{2x}")) is True


def test_brackets_keep_their_kind() -> None:
    for text, info in (("(1,2)", "()"), ("[1,2)", "[)"), ("(1,2]", "(]"), ("]1,2[", "()")):
        node = parse(text)
        assert isinstance(node, Apply) and (node.head, node.info) == ("group", info)
    assert parse(r"\{1,2\}") == Apply("set", (Number(fmpq(1)), Number(fmpq(2))))
    assert parse("(x)") == parse("[x]") == parse("x") == Symbol("x")


def test_commas_in_a_bracket_group_digits_only_where_others_separate() -> None:
    pair, thousands = parse("(100,200)"), parse("(1,000, 2,000)")
    assert isinstance(pair, Apply) and pair.args == (Number(fmpq(100)), Number(fmpq(200)))
    assert isinstance(thousands, Apply)
    assert thousands.args == (Number(fmpq(1000)), Number(fmpq(2000)))


def test_words_between_answers_separate_them() -> None:
    for text in ("1, 2 and 3", r"1,2\text{ and }3", "1 or 2 or 3", r"1;\quad 2;\quad 3"):
        node = parse(text)
        assert isinstance(node, Apply) and node.head == "list" and len(node.args) == 3, text


@pytest.mark.parametrize(
    "text",
    [
        "", "(", ")", "1+", r"\frac{1}", "{", "}", r"\sqrt", "x^", "x_", "1 2", "#", "\x00",
        r"\lim_{x\to0} x", r"\frac{d}{dx} x", r"1, 2, \ldots", r"\begin{cases}1\end{cases}",
        r"\begin{pmatrix}1&2\\3\end{pmatrix}", "]1,2", "|x", "f(", "1" * 5000, "1e99999",
        "(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "x+" * 4000 + "x",
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(Unreadable, match=r"."):
        parse(text)

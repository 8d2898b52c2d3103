r"""Answers as models and graders write them, each kind with its near misses.

Every case is (right answer, reply, verdict). A reply that is wrong must never be found correct;
where nobody can tell, the verdict is UNVERIFIABLE.
"""

from collections.abc import Iterator

import pytest
from r1kit.eval.math.verify import MathVerifier
from r1kit.eval.verdict import Verdict

CORRECT, WRONG, OPEN = Verdict.CORRECT, Verdict.WRONG, Verdict.UNVERIFIABLE

Case = tuple[str, str, Verdict]


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    with MathVerifier(timeout_s=30) as shared:
        yield shared


def check(verifier: MathVerifier, case: Case) -> None:
    gold, reply, verdict = case
    found = verifier.verify(reply, gold)
    assert found.verdict is verdict, found


UNITS: list[Case] = [
    (r"5000\text{ N}", r"\boxed{5\text{ kN}}", CORRECT),
    (r"5\text{ N}", r"\boxed{5\text{ kN}}", WRONG),
    # The case of a prefix is its size: a milliwatt is no megawatt.
    (r"3\text{ MW}", r"\boxed{3\text{ mW}}", WRONG),
    (r"3000\text{ kW}", r"\boxed{3\text{ MW}}", CORRECT),
    (r"5000\text{ kg}", r"\boxed{5\text{ Mg}}", CORRECT),
    (r"0.25\text{ s}", r"\boxed{250\text{ ms}}", CORRECT),
    (r"5\text{ m/s}", r"\boxed{5\text{ ms}}", WRONG),
    (r"5\times10^{-6}\text{ m}", r"\boxed{5\ \mu\text{m}}", CORRECT),
    # Derived units are products of base units, whichever way they are written.
    (r"5\text{ kg m/s}^2", r"\boxed{5\text{ N}}", CORRECT),
    (r"5\text{ J}", r"\boxed{5\text{ N}\cdot\text{m}}", CORRECT),
    (r"5\text{ N m}", r"\boxed{5\text{ N}}", WRONG),
    (r"5\,\Omega", r"\boxed{5\,\text{V}/\text{A}}", CORRECT),
    (r"5\text{ s}^{-1}", r"\boxed{5\text{ Hz}}", CORRECT),
    (r"5\text{ s}", r"\boxed{5\text{ Hz}}", WRONG),
    # Degrees of a thermometer are not those of an angle, but a bare sign may mean either.
    (r"25\text{ degrees Celsius}", r"\boxed{25^\circ\text{C}}", CORRECT),
    (r"25^\circ\text{F}", r"\boxed{25^\circ\text{C}}", WRONG),
    (r"25^\circ\text{C}", r"\boxed{25^\circ}", CORRECT),
    (r"25^\circ\text{C}", r"\boxed{26^\circ}", WRONG),
]


@pytest.mark.parametrize("case", UNITS)
def test_units_are_converted_by_prefix_and_dimension(verifier: MathVerifier, case: Case) -> None:
    check(verifier, case)


SCALES: list[Case] = [
    ("2,500,000", "2.5 million", CORRECT),
    ("2500000", r"\boxed{\$2.5\text{ million}}", CORRECT),
    ("1,200,000", "$1.2 billion", WRONG),
    ("2.5 billion", "2.5 million", WRONG),
    # "How many millions?" may be answered by 3 or by 3 million: nobody can tell from here.
    ("3", r"\boxed{3\text{ million}}", OPEN),
    ("24", "2 dozen", CORRECT),
    ("2", "2 dozen", CORRECT),
    ("25", "2 dozen", WRONG),
    ("25%", "25 per cent", CORRECT),
]


@pytest.mark.parametrize("case", SCALES)
def test_words_of_size_multiply(verifier: MathVerifier, case: Case) -> None:
    check(verifier, case)


NAMED: list[Case] = [
    ("(1,2)", r"\boxed{y=2, x=1}", CORRECT),
    # By place this is the pair, by its letters it is (2, 1).
    ("(1,2)", r"\boxed{y=1, x=2}", OPEN),
    ("(3,-1)", r"\boxed{b=3, a=-1}", OPEN),
    ("(1,2)", r"\boxed{x=2, y=1}", WRONG),
    # Where the right answer has the names, its order is the one that was asked for.
    (r"x = -5,\ p = \frac{14}{3}", r"\boxed{-5, \frac{14}{3}}", CORRECT),
    (r"x = -5,\ p = \frac{14}{3}", r"\boxed{\frac{14}{3}, -5}", WRONG),
    # Two roots are not two unknowns: they have no order.
    ("-3, 2", r"\boxed{x_1=2, x_2=-3}", CORRECT),
    ("-3, 2", r"\boxed{x_1=2, x_2=3}", WRONG),
    ("(1,2)", r"\boxed{A(1,2)}", CORRECT),
    ("P(1,2)", r"\boxed{P=(1,2)}", CORRECT),
    ("B(1,2)", r"\boxed{A(1,2)}", WRONG),
    ("(1,2)", r"\boxed{A(2,1)}", WRONG),
    ("A(1,2), B(3,4)", r"\boxed{B(3,4), A(1,2)}", CORRECT),
    ("A(1,2), B(3,4)", r"\boxed{A(3,4), B(1,2)}", WRONG),
]


@pytest.mark.parametrize("case", NAMED)
def test_names_say_which_value_is_which(verifier: MathVerifier, case: Case) -> None:
    check(verifier, case)


FAMILIES: list[Case] = [
    (r"\frac{\pi}{2}+n\pi, n\in\mathbb{Z}", r"\boxed{x=\frac{\pi}{2}+k\pi\ (k\in Z)}", CORRECT),
    (
        r"-\frac{\pi}{2}+n\pi, n\in\mathbb{Z}",
        r"\boxed{\frac{\pi}{2}+k\pi, k\in\mathbb{Z}}",
        CORRECT,
    ),
    (r"\frac{\pi}{4}+n\pi, n\in\mathbb{Z}", r"\boxed{\frac{\pi}{2}+k\pi, k\in\mathbb{Z}}", WRONG),
    (r"2\pi n, n\in\mathbb{Z}", r"\boxed{2k\pi\text{ for any integer }k}", CORRECT),
    (r"2\pi n, n\in\mathbb{Z}", r"\boxed{k\pi\text{, where }k\text{ is an integer}}", WRONG),
    (
        r"\frac{\pi}{6}+k\pi, k\in\mathbb{Z}",
        r"\boxed{30^\circ+180^\circ k, k\in\mathbb{Z}}",
        CORRECT,
    ),
    (r"\frac{\pi}{6}+k\pi, k\in\mathbb{Z}", r"\boxed{30^\circ+360^\circ k, k\in\mathbb{Z}}", WRONG),
    (r"2n\pi\pm\frac{\pi}{3}, n\in\mathbb{Z}", r"\boxed{\pm\frac{\pi}{3}+2k\pi, k\in\mathbb{Z}}",
     CORRECT),
    # From one on, a shift counts, and half a family is not all of it.
    (r"2k-1, k\in\mathbb{N}", r"\boxed{2n+1, n\in\mathbb{N}}", OPEN),
    (r"2k+1, k\in\mathbb{Z}", r"\boxed{2n+1, n\in\mathbb{N}}", OPEN),
    (r"k\pi, k\in\mathbb{Z}", r"\boxed{0}", WRONG),
    (r"\pi", r"\boxed{k\pi, k\in\mathbb{Z}}", WRONG),
]  # fmt: skip


@pytest.mark.parametrize("case", FAMILIES)
def test_a_parameter_may_have_any_name_but_not_any_step(verifier: MathVerifier, case: Case) -> None:
    check(verifier, case)


CASES: list[Case] = [
    (r"\begin{cases}x, & x>0\\ -x, & x\leq 0\end{cases}",
     r"\boxed{\begin{cases}-x & \text{if } x\le0\\ x & \text{if } x>0\end{cases}}", CORRECT),
    (r"\begin{cases}x, & x>0\\ -x, & x\leq 0\end{cases}",
     r"\boxed{\begin{cases}x & x>0\\ x & x\le0\end{cases}}", WRONG),
    (r"\begin{cases}x, & x>0\\ -x, & x\leq 0\end{cases}",
     r"\boxed{\begin{cases}x & x>0\\ -x & x<0\end{cases}}", OPEN),
    ("x=1, y=2", r"\boxed{\begin{cases}x=1\\y=2\end{cases}}", CORRECT),
    ("x=1, y=2", r"\boxed{\left\{\begin{array}{l}x=1\\y=2\end{array}\right.}", CORRECT),
    ("x=1, y=2", r"\boxed{\begin{cases}x=2\\y=1\end{cases}}", WRONG),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_cases_are_compared_row_by_row(verifier: MathVerifier, case: Case) -> None:
    check(verifier, case)


UNKNOWNS: list[Case] = [
    # Nobody says how y depends on x: its derivative is not 0, as sympy has it.
    (r"\frac{dy}{dx}=x", r"\boxed{\frac{dy}{dx}=2x}", WRONG),
    (r"\frac{dy}{dx}=2x", r"\boxed{\frac{dy}{dx} = 2 x}", CORRECT),
    ("2x", r"\boxed{\frac{dy}{dx}=2x}", CORRECT),
    (r"\frac{dy}{dx}=-ky", r"\boxed{\frac{dy}{dt}=-ky}", WRONG),
    # What is called something else is something else.
    ("f(x)=2x", r"\boxed{f'(x)=2x}", WRONG),
    ("2x", r"\boxed{f'(x)=2x}", CORRECT),
    ("BC=5", r"\boxed{AB=5}", WRONG),
    ("AB=5", r"\boxed{BA=5}", CORRECT),
    ("0.5", r"\boxed{P(X=2)=\frac12}", CORRECT),
    ("2", r"\boxed{P(X=2)=\frac12}", WRONG),
    (r"p\wedge q", r"p\vee q", OPEN),
    (r"p\wedge q", r"q\wedge p", CORRECT),
    # Arbitrary constants have no names, and other numbered letters have.
    (r"y=C_1e^{x}+C_2e^{-x}", r"\boxed{y=C_2e^{x}+C_1e^{-x}}", CORRECT),
    (r"y=C_1e^{x}+C_2e^{-x}", r"\boxed{y=Ae^{x}+Be^{-x}}", CORRECT),
    (r"y=C_1e^{x}+C_2e^{-x}", r"\boxed{y=C_1e^{x}+C_2e^{2x}}", WRONG),
    (r"y=C_1e^{x}+C_2e^{-x}", r"\boxed{y=C_1e^{x}+e^{-x}}", WRONG),
    ("x_2+2x_1", r"\boxed{x_1+2x_2}", WRONG),
    # A sign in a tuple makes two of it.
    ("(1,2),(1,-2)", r"\boxed{(1,\pm2)}", CORRECT),
    ("(1,2),(1,-2)", r"\boxed{(\pm1,2)}", WRONG),
    ("(1,0),(-1,0),(0,1),(0,-1)", r"\boxed{(\pm1,0),(0,\pm1)}", CORRECT),
    ("(1,0)", r"\boxed{(\pm1,0)}", WRONG),
    # In base 8 the digit 7 is 7 as well, but 7 does not say so.
    ("7", r"\boxed{7_8}", OPEN),
]


@pytest.mark.parametrize("case", UNKNOWNS)
def test_what_is_called_otherwise_is_something_else(verifier: MathVerifier, case: Case) -> None:
    check(verifier, case)


NOTATIONS: list[Case] = [
    ("120", r"\boxed{C_{10}^3}", CORRECT),
    ("720", r"\boxed{C_{10}^3}", WRONG),
    ("720", r"\boxed{A_{10}^3}", CORRECT),
    ("120", r"\boxed{{}_{10}C_3}", CORRECT),
    ("720", r"\boxed{P(10,3)}", CORRECT),
    ("120", r"\boxed{P(10,3)}", WRONG),
    # The index of a sum is not the imaginary unit, whatever its letter.
    ("120", r"\boxed{\prod_{i=1}^{5}i}", CORRECT),
    ("14", r"\boxed{\sum_{i=1}^{5}i}", WRONG),
    (r"1+i\sqrt3", r"\boxed{2\operatorname{cis}60^\circ}", CORRECT),
    (r"1-i\sqrt3", r"\boxed{2\operatorname{cis}60^\circ}", WRONG),
    (r"\sqrt{2+\sqrt3}", "Sqrt[2+Sqrt[3]]", CORRECT),
    (r"\cos x", "Sin[x]", WRONG),
    (r"\log_{10} 2", "Log[2]", WRONG),
    ("x>2", "{x | x > 2}", CORRECT),
    (r"[2,\infty)", "{x | x > 2}", WRONG),
    (r"(0,\infty)", r"\boxed{\mathbb{R}^+}", CORRECT),
    (r"[0,\infty)", r"\boxed{\mathbb{R}^+}", WRONG),
    (r"(-\infty,1]\cup[2,\infty)", r"(-\infty,1] U [2,\infty)", CORRECT),
    (r"x\ne2", r"\boxed{x\not=2}", CORRECT),
    ("x=2", r"\boxed{x\not=2}", WRONG),
    ("(1,2,3)", r"\boxed{\vec{i}+2\vec{j}+3\vec{k}}", CORRECT),
    ("(1,3,2)", "<1,2,3>", WRONG),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "[[1,2],[3,4]]", CORRECT),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "Matrix([[1,3],[2,4]])", WRONG),
    # What is not shown is not said; what is only large is.
    ("12", r"\boxed{\phantom{1}2}", WRONG),
    ("1/2", r"\boxed{\large\frac12}", CORRECT),
    (r"1,2,\dots,10", r"\boxed{1, 2, \ldots, 10}", CORRECT),
]


@pytest.mark.parametrize("case", NOTATIONS)
def test_other_notations_are_read(verifier: MathVerifier, case: Case) -> None:
    check(verifier, case)


WORDS: list[Case] = [
    ("AC", r"\boxed{A, C}", CORRECT),
    ("A,C", r"\boxed{A \text{ and } C}", CORRECT),
    ("A,C", r"\boxed{A, B}", WRONG),
    ("Alice, Bob", r"\boxed{\text{Bob and Alice}}", CORRECT),
    ("increasing", r"\boxed{\text{not increasing}}", WRONG),
    ("7:00 AM", r"\boxed{\text{7 AM}}", CORRECT),
    ("3:30 PM", "15:30", CORRECT),
    ("12 PM", "12 AM", WRONG),
    ("3:30 PM", "3:30 AM", WRONG),
]


@pytest.mark.parametrize("case", WORDS)
def test_words_letters_and_times(verifier: MathVerifier, case: Case) -> None:
    check(verifier, case)


REPLIES: list[Case] = [
    ("B", "The correct option is (B).", CORRECT),
    ("B", "The correct option is (C).", WRONG),
    ("B", "故选：B。", CORRECT),
    ("B", "故选：C。", WRONG),
    ("5", "所以答案为：5", CORRECT),
    ("5", "所以答案为：6", WRONG),
    ("12", "答：共有12个。", CORRECT),
    ("12", "答：共有13个。", WRONG),
    ("15", "因此，小明有 15 个苹果。", CORRECT),
    ("4", "<answer>4</answer>", CORRECT),
    ("13", "<answer>12</answer> but maybe 13", WRONG),
]


@pytest.mark.parametrize("case", REPLIES)
def test_replies_say_where_their_answer_stands(verifier: MathVerifier, case: Case) -> None:
    check(verifier, case)

"""The policy table: every value of every setting, with what it finds right and what it does not."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from r1kit.eval.math.policy import MathPolicy
from r1kit.eval.math.verify import MathVerifier
from r1kit.eval.verdict import Verdict

RIGHT, WRONG = Verdict.CORRECT, Verdict.WRONG

TENTH = "Round your answer to the nearest tenth."
DECIMAL = "Express the fraction as a decimal."
FRACTION = "Express your answer as a common fraction."
TENTH_ZH = "结果四舍五入到十分位。"
FRACTION_ZH = "结果用最简分数表示。"

Case = tuple[str, str, Verdict]
"""Given answer, right answer, verdict."""

UNITS_CONVERTED: list[Case] = [
    ("500 cm", "5 m", RIGHT),
    ("5 m", "500 cm", RIGHT),
    ("5 cm", "5 m", WRONG),
    ("5 kg", "5 m", WRONG),
    ("2 hours", "120 minutes", RIGHT),
    (r"1\text{ m}^2", r"10000\text{ cm}^2", RIGHT),
    (r"1\text{ m}^2", r"100\text{ cm}^2", WRONG),
    ("5", "5", RIGHT),
]
LISTS: list[Case] = [
    ("(2, 1)", "(1, 2)", WRONG),
    ("(1, 2)", "(1, 2)", RIGHT),
    (r"\{2, 1\}", r"\{1, 2\}", RIGHT),
    ("1, 2", "1, 2", RIGHT),
    ("1, 3", "1, 2", WRONG),
]
PERCENT: list[Case] = [
    (r"25\%", "0.25", RIGHT),
    ("0.25", r"25\%", RIGHT),
    (r"25\%", r"\frac14", RIGHT),
    (r"25\%", r"25\%", RIGHT),
    ("25", "0.25", WRONG),
    ("25", r"\frac14", WRONG),
    (r"2.5\%", r"25\%", WRONG),
]
NO_ROUNDING: list[Case] = [
    ("0.7", r"\frac23", WRONG),
    ("0.67", r"\frac23", WRONG),
    ("3.1", r"\pi", WRONG),
    ("0.3", r"\frac14", WRONG),
]
ROUNDED: list[Case] = [
    ("0.7", r"\frac23", RIGHT),
    ("0.67", r"\frac23", RIGHT),
    ("3.1", r"\pi", RIGHT),
    ("0.66", r"\frac23", WRONG),
    ("3.2", r"\pi", WRONG),
]
EXACT: list[Case] = [
    ("0.25", r"\frac14", RIGHT),
    (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}", WRONG),
    (r"\frac{1000001}{1000000}", "1", WRONG),
    (r"\frac{355}{113}", r"\pi", WRONG),
    (r"\sqrt{2}+\sqrt{3}", r"\pi", WRONG),
]
"""No setting changes these: both sides are exact."""

TABLE: list[tuple[dict[str, Any], str, list[Case]]] = [
    (
        {"units": "optional"},
        "",
        [*UNITS_CONVERTED, ("5", "5 m", RIGHT), ("5 m", "5", RIGHT), ("500", "5 m", WRONG)],
    ),
    (
        {"units": "required"},
        "",
        [*UNITS_CONVERTED, ("5", "5 m", WRONG), ("6 m", "5 m", WRONG), ("5 m", "5 m", RIGHT)],
    ),
    (
        {"units": "ignored"},
        "",
        [
            ("5 cm", "5 m", RIGHT),
            ("5 kg", "5 m", RIGHT),
            ("5", "5 m", RIGHT),
            ("5 m", "5", RIGHT),
            ("500 cm", "5 m", WRONG),
            ("6 m", "5 m", WRONG),
        ],
    ),
    ({"percent": "either"}, "", [*PERCENT, (r"25\%", "25", RIGHT), ("25", r"25\%", RIGHT)]),
    ({"percent": "exact"}, "", [*PERCENT, (r"25\%", "25", WRONG), ("25", r"25\%", WRONG)]),
    (
        {"order": "any"},
        "",
        [*LISTS, ("2, 1", "1, 2", RIGHT), ("2 and 1", "1, 2", RIGHT), ("b, a", "a, b", RIGHT)],
    ),
    (
        {"order": "fixed"},
        "",
        [*LISTS, ("2, 1", "1, 2", WRONG), ("2 and 1", "1, 2", WRONG), ("1 and 2", "1, 2", RIGHT)],
    ),
    ({"rounding": "asked"}, "", NO_ROUNDING),
    ({"rounding": "asked"}, FRACTION, NO_ROUNDING),
    ({"rounding": "asked"}, TENTH, ROUNDED),
    ({"rounding": "asked"}, DECIMAL, ROUNDED),
    ({"rounding": "asked"}, FRACTION_ZH, NO_ROUNDING),
    ({"rounding": "asked"}, TENTH_ZH, ROUNDED),
    ({"rounding": "always"}, "", ROUNDED),
    ({"rounding": "always"}, FRACTION, ROUNDED),
    ({"rounding": "always"}, FRACTION_ZH, ROUNDED),
    ({"rounding": "never"}, "", NO_ROUNDING),
    ({"rounding": "never"}, TENTH, NO_ROUNDING),
    ({"rounding": "never"}, TENTH_ZH, NO_ROUNDING),
    (
        {"decimals": 4},
        "",
        [
            ("0.3333", r"\frac13", RIGHT),
            (r"\frac13", "0.3333", RIGHT),
            ("3.142", r"\pi", RIGHT),
            ("0.01667", r"\frac{1}{60}", RIGHT),
            (r"3.33\times 10^{-1}", r"\frac13", RIGHT),
            ("0.333", r"\frac13", WRONG),
            ("0.3334", r"\frac13", WRONG),
            ("3.141", r"\pi", WRONG),
            ("0.0167", r"\frac{1}{60}", WRONG),
            ("0.25001", r"\frac14", WRONG),
            ("0.1234", "0.12345", WRONG),
        ],
    ),
    (
        {"decimals": 7},
        "",
        [
            ("0.3333333", r"\frac13", RIGHT),
            ("3.141593", r"\pi", RIGHT),
            (r"3.33333\times 10^{-1}", r"\frac13", RIGHT),
            ("0.3333", r"\frac13", WRONG),
            ("0.333333", r"\frac13", WRONG),
            ("3.14159", r"\pi", WRONG),
            (r"3.3333\times 10^{-1}", r"\frac13", WRONG),
        ],
    ),
    ({"decimals": 1}, "", [("0.3", r"\frac13", RIGHT), ("0.4", r"\frac13", WRONG)]),
    (
        {"tolerance": 0.0},
        "",
        [("2.98", "3", WRONG), ("0.5000001", r"\frac12", WRONG), ("0.1", "0.10", RIGHT)],
    ),
    (
        {"tolerance": 0.01},
        "",
        [
            ("2.98", "3", RIGHT),
            ("3", "2.98", RIGHT),
            ("3.14", r"\pi", RIGHT),
            ("0.505", r"\frac12", RIGHT),
            ("-2.98", "-3", RIGHT),
            ("2.96", "3", WRONG),
            ("0.51", r"\frac12", WRONG),
            ("-2.98", "3", WRONG),
            (r"\frac{199}{200}", "1", WRONG),
            (r"\frac{22}{7}", r"\pi", WRONG),
            ("199", "200", WRONG),
        ],
    ),
]
"""Settings, problem statement, cases."""


@pytest.fixture(scope="module")
def verifiers() -> Iterator[dict[MathPolicy, MathVerifier]]:
    """A verifier for every policy of the table."""
    opened = {policy: MathVerifier(policy) for policy in {MathPolicy(**s) for s, _, _ in TABLE}}
    yield opened
    for verifier in opened.values():
        verifier.close()


CASES = [
    pytest.param(settings, problem, *case, id=f"{settings}-{problem[:10]}-{case[0]}-{case[1]}")
    for settings, problem, cases in TABLE
    for case in cases
]


@pytest.mark.parametrize(("settings", "problem", "pred", "gold", "verdict"), CASES)
def test_a_setting_means_what_the_table_says(
    verifiers: dict[MathPolicy, MathVerifier],
    settings: dict[str, Any],
    problem: str,
    pred: str,
    gold: str,
    verdict: Verdict,
) -> None:
    judged = verifiers[MathPolicy(**settings)].verify(pred, gold, problem=problem)
    assert judged.verdict is verdict, judged


@pytest.mark.parametrize("problem", ["", TENTH])
@pytest.mark.parametrize("case", EXACT)
def test_no_setting_lets_exact_numbers_be_nearly_equal(
    verifiers: dict[MathPolicy, MathVerifier], case: Case, problem: str
) -> None:
    pred, gold, verdict = case
    found = {
        str(policy): verifier.verify(pred, gold, problem=problem).verdict
        for policy, verifier in verifiers.items()
    }
    assert set(found.values()) == {verdict}, found


@pytest.mark.parametrize(
    ("problem", "asks"),
    [
        ("Give your answer to two decimal places.", True),
        ("Find x correct to 3 significant figures.", True),
        ("To the nearest tenth of a percent, what is it?", True),
        ("Round to the nearest hundredth.", True),
        ("What is the approximate area? Give it as a decimal.", True),
        ("Approximate the root.", True),
        ("Find the exact value.", False),
        ("A round table seats eight. How many ways are there?", False),
        ("Write 0.25 as a fraction in lowest terms.", False),
        ("What is the probability that a round is won?", False),
        ("Which common fraction is the recurring decimal 0.666...?", False),
        ("Give the exact value, do not round your answer.", False),
        ("Leave your answer in exact form; decimal approximations receive no credit.", False),
        ("Answer correct to 2 d.p.", True),
        ("Give your answer to 2 s.f.", True),
        ("结果保留两位小数。", True),
        ("结果用小数表示。", True),
        ("保留根号。", False),
        ("结果保留π。", False),
        ("答案保留分数形式。", False),
        ("保留三位有效数字。", True),
        ("四舍五入到百分位。", True),
        ("求方程的近似解。", True),
        ("答案精确到0.01。", True),
        ("求x的精确值。", False),
        ("用最简分数表示。", False),
        ("圆桌旁坐八人，有多少种坐法？", False),
    ],
)
def test_what_asks_for_rounding_and_what_does_not(
    verifiers: dict[MathPolicy, MathVerifier], problem: str, asks: bool
) -> None:
    verdict = verifiers[MathPolicy()].verify("0.67", r"\frac23", problem=problem).verdict
    assert verdict is (RIGHT if asks else WRONG)


def test_the_table_has_every_value_of_every_choice() -> None:
    for name, field in MathPolicy.model_fields.items():
        tried = {settings[name] for settings, _, _ in TABLE if name in settings}
        assert tried >= set(get_args(field.annotation))
        assert field.default in tried, name
        assert len(tried) > 1, name


def test_every_value_makes_a_difference_somewhere() -> None:
    """Where two values of a setting share a pair, some pair tells them apart."""
    for name in MathPolicy.model_fields:
        said: dict[tuple[str, str], set[Verdict]] = {}
        for settings, _, cases in TABLE:
            if name in settings:
                for pred, gold, verdict in cases:
                    said.setdefault((pred, gold), set()).add(verdict)
        assert {RIGHT, WRONG} in said.values(), name


def test_the_defaults_are_those_of_the_table() -> None:
    assert MathPolicy().model_dump() == {
        "units": "optional",
        "percent": "either",
        "order": "any",
        "rounding": "asked",
        "decimals": 4,
        "tolerance": 0.0,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit": "ignored"},
        {"units": "maybe"},
        {"decimals": 0},
        {"tolerance": 1.0},
        {"tolerance": -1},
    ],
)
def test_what_is_no_policy_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MathPolicy(**wrong)

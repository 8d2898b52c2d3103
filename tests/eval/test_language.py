"""Scripts: shares by letters, formulas and code left out, and the first place that changes."""

import time

import pytest
from r1kit.eval.language import Mixing, Script, mixed_scripts, script_shares


def test_shares_are_of_letters() -> None:
    assert script_shares("abcd, 12 你好!") == {Script.LATIN: 4 / 6, Script.HAN: 2 / 6}
    assert script_shares("12 + 3 = 15") == {}


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello wörld naïve", Script.LATIN),
        ("ＡＢＣ", Script.LATIN),
        ("我们先计算", Script.HAN),
        ("Сначала сложим", Script.CYRILLIC),
        ("まず", Script.KANA),
        ("カタカナ", Script.KANA),
        ("먼저", Script.HANGUL),
        ("نحسب أولا", Script.ARABIC),
        ("חשב", Script.OTHER),
        ("हिन्दी", Script.OTHER),
    ],
)
def test_each_script_is_told_apart(text: str, script: Script) -> None:
    assert script_shares(text) == {script: 1.0}
    assert mixed_scripts(text) == Mixing(script, 0.0, "")


def test_formulas_code_and_quantities_are_no_language() -> None:
    text = (
        r"我们知道 $\text{speed} = \frac{distance}{time}$ 和 \(abc\) 以及 \[ long words \] 还有 "
        "$$xyz$$, 其中 x, y 是 \\alpha 与 α 和 ℝ 的 𝑥。"
        "```python\nprint('hello world')\n``` 和 `inline code`。"
    )
    assert mixed_scripts(text) == Mixing(Script.HAN, 0.0, "")
    assert mixed_scripts("The angles α and β sum to π over ℝ.").foreign_share == 0.0


def test_dollars_are_money_where_they_do_not_close_a_formula() -> None:
    found = mixed_scripts("It costs $5 and then 我们 pay $6 for it all")
    assert found.span == "我们"


def test_the_first_foreign_span_is_shown_with_its_share() -> None:
    found = mixed_scripts("First we add them. 然后, 我们乘以三 and then we divide. Потом конец")
    assert found.main is Script.LATIN
    assert found.span == "然后, 我们乘以三"
    latin, foreign = len("FirstweaddthemandthenwedivideX") - 1, 7 + 10
    assert found.foreign_share == pytest.approx(foreign / (latin + foreign))


def test_japanese_is_one_language() -> None:
    assert mixed_scripts("方程式を解くと答えは三である。") == Mixing(Script.KANA, 0.0, "")
    assert mixed_scripts("我们先计算结果然后比较の大小关系得到答案").span == "の"
    assert mixed_scripts("まずはじめに we compute これを計算する").span == "we compute"


def test_a_text_without_letters_has_no_script() -> None:
    assert mixed_scripts("1 + 2 = 3") == Mixing(None, 0.0, "")


@pytest.mark.parametrize("text", ["\\[" * 30_000, "$" * 60_000, "```" * 30_000, "$a" * 30_000])
def test_hostile_texts_do_not_take_for_ever(text: str) -> None:
    started = time.perf_counter()
    mixed_scripts(text)
    assert time.perf_counter() - started < 5.0

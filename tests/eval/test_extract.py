"""Extraction: which rule fires, and what it takes."""

import time

import pytest
from r1kit.eval.math.extract import Rule, extract, find_boxes


@pytest.mark.parametrize(
    ("reply", "text", "rule"),
    [
        (r"So \boxed{42}.", "42", Rule.BOXED),
        (r"$\boxed{\frac{1}{\sqrt{2}}}$", r"\frac{1}{\sqrt{2}}", Rule.BOXED),
        (r"\boxed { 7 }", "7", Rule.BOXED),
        (r"\fbox{7}", "7", Rule.BOXED),
        (r"\boxed 5", "5", Rule.BOXED),
        (r"\boxed5.", "5", Rule.BOXED),
        (r"\boxed\pi", r"\pi", Rule.BOXED),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}", Rule.BOXED),
        (r"\boxed{\boxed{3}}", "3", Rule.BOXED),
        ("\\boxed{\n12\n}", "12", Rule.BOXED),
        (r"The answer is 3, no: \boxed{4}", "4", Rule.BOXED),
        ("reasoning\n#### 18", "18", Rule.HASHES),
        ("The answer is 42.", "42", Rule.PHRASE),
        ("Final answer: 3.14", "3.14", Rule.PHRASE),
        ("**Answer:** 17, 34, 52", "17, 34, 52", Rule.PHRASE),
        ("Answer:\n\n 12", "12", Rule.PHRASE),
        (r"The answer is $\frac12$, since $x=3$.", r"\frac12", Rule.PHRASE),
        ("The answer is therefore clearly equal to 42, since 3 is odd", "3", Rule.PHRASE),
        ("Final Answer: The largest $n$ is 34.", "34", Rule.PHRASE),
        ("My answer is odd.", "odd", Rule.PHRASE),
        (r"First $x = 1$. Then \(y = 2\)", "y = 2", Rule.FORMULA),
        (r"So \[ x = \frac{1}{2} \]", r"x = \frac{1}{2}", Rule.FORMULA),
        ("It costs $$12$$ in all", "12", Rule.FORMULA),
        ("17, 34, 52", "17, 34, 52", Rule.WHOLE),
        ("(1, 2)", "(1, 2)", Rule.WHOLE),
        ("Evelyn", "Evelyn", Rule.WHOLE),
        ("x = 5", "x = 5", Rule.WHOLE),
        ("First we add 3 and 4, which makes the sum 1,207.", "1,207", Rule.NUMBER),
        ("We find that it has to be minus -3/4 of them", "-3/4", Rule.NUMBER),
        ("We cannot say what it might be here", "", Rule.NONE),
        ("", "", Rule.NONE),
        ("   \n ", "", Rule.NONE),
    ],
)
def test_the_first_rule_that_fires_is_recorded(reply: str, text: str, rule: Rule) -> None:
    found = extract(reply)
    assert (found.text, found.rule) == (text, rule)


def test_the_last_of_several_boxes_is_the_answer_and_is_tagged() -> None:
    found = extract(r"\boxed{1} and then \boxed{\frac{2}{3}}")
    assert (found.text, found.tags) == (r"\frac{2}{3}", ("several boxes",))


def test_a_box_in_a_box_is_one_box() -> None:
    found = extract(r"\boxed{x = \boxed{3}}")
    assert (found.text, found.tags) == ("3", ())


def test_an_unbalanced_box_is_no_box_and_is_tagged() -> None:
    found = extract(r"\boxed{1} or rather \boxed{\frac{2}{3}")
    assert (found.text, found.tags) == ("1", ("unbalanced box",))
    found = extract(r"It is \boxed{42")
    assert (found.text, found.rule, found.tags) == ("42", Rule.NUMBER, ("unbalanced box",))


def test_an_empty_box_is_not_filled_from_elsewhere() -> None:
    found = extract(r"The answer is 42. \boxed{ }")
    assert (found.text, found.rule, found.tags) == ("", Rule.NONE, ("empty box",))
    assert extract(r"\boxed{5} \boxed{}").text == "5"


def test_boxes_in_other_commands_are_not_boxes() -> None:
    assert find_boxes(r"\boxedsum{3} and \mbox{4}") == ([], False)


@pytest.mark.parametrize(
    "reply",
    [
        "\\boxed{" * 20_000,
        "{" * 100_000 + "}" * 50_000 + "\\boxed{3}",
        "$" * 100_000,
        "\\(" * 50_000,
        "answer is " * 10_000,
        "answer" + " " * 100_000,
        "1," * 50_000,
        "9" * 100_000,
        "a" * 100_000,
        "\\" * 100_001,
    ],
)
def test_hostile_replies_take_no_longer_than_their_length(reply: str) -> None:
    started = time.perf_counter()
    extract(reply)
    assert time.perf_counter() - started < 2.0

"""The embedded problems: their steps lead to the exact answer, and their splits never meet."""

import math
import re

import pytest
from r1kit.teacher.tiny.families import (
    CUPS,
    FAMILIES,
    TinyProblem,
    check,
    generate,
    solution,
    split_of,
)


def problems(family: str, count: int = 200) -> list[TinyProblem]:
    return generate(family, count, 3, "train")


def recomputed(problem: TinyProblem) -> str:
    """The answer worked out from the statement's own numbers, by other means than the family's."""
    numbers = [int(text) for text in re.findall(r"\d+", problem.statement)]
    match problem.family:
        case "running_sum":
            return str(sum(numbers))
        case "product":
            return str(sum(numbers[0] for _ in range(numbers[1])))
        case "base_conversion":
            numeral, base = max(numbers), min(numbers)
            digits = [int(digit) for digit in str(numeral)]
            return str(sum(d * base**i for i, d in enumerate(reversed(digits))))
        case "gcd":
            left, right = numbers
            return str(max(d for d in range(1, min(numbers) + 1) if left % d == right % d == 0))
        case "swaps":
            at = {cup: place for place, cup in enumerate(CUPS, start=1)}
            for first, second in zip(numbers[::2], numbers[1::2], strict=True):
                move = {first: second, second: first}
                at = {cup: move.get(place, place) for cup, place in at.items()}
            return "".join(sorted(at, key=lambda cup: at[cup]))
    raise AssertionError(f"no check for {problem.family}")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_is_what_the_statement_asks_for(family: str) -> None:
    for problem in problems(family):
        assert problem.answer == recomputed(problem), problem


@pytest.mark.parametrize("family", FAMILIES)
def test_the_worked_steps_end_in_the_answer(family: str) -> None:
    for problem in problems(family):
        thinking, _, answer = solution(problem).partition("\n</think>\n")
        last = thinking.splitlines()[-1]
        ends = re.split(r"[=;>]", last)
        if family == "gcd":  # the last subtraction leaves nothing; what it subtracted is the answer
            assert int(ends[-1]) == 0
            assert str(int(last[4:7])) == problem.answer
        else:
            assert ends[-1].lstrip("0") == problem.answer
        assert answer == f"\\boxed{{{problem.answer}}}"
        assert check(problem, problem.answer)


@pytest.mark.parametrize("family", ["running_sum", "product", "gcd"])
def test_every_equation_among_the_steps_holds(family: str) -> None:
    for problem in problems(family):
        for left, sign, right, result in re.findall(
            r"^(\d+)([+*-])(\d+):.*?(\d+)$", solution(problem), flags=re.MULTILINE
        ):
            value = {
                "+": int(left) + int(right),
                "-": int(left) - int(right),
                "*": int(left) * int(right),
            }[sign]
            assert value == int(result), solution(problem)


@pytest.mark.parametrize("family", FAMILIES)
def test_train_and_test_never_share_a_problem_in_any_wording_or_order(family: str) -> None:
    canonical = FAMILIES[family].canonical
    train = {canonical(p.numbers) for p in generate(family, 900, 1, "train")}
    held_out = {canonical(p.numbers) for p in generate(family, 120, 2, "test")}
    assert not train & held_out


def test_a_sum_in_another_order_is_the_same_problem() -> None:
    assert split_of("running_sum", (12, 34, 56, 78)) == split_of("running_sum", (78, 12, 56, 34))
    assert split_of("product", (12, 34)) == split_of("product", (34, 12))
    assert split_of("gcd", (322, 805)) == split_of("gcd", (805, 322))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_different_problems(family: str) -> None:
    first, again = generate(family, 50, 5, "train"), generate(family, 50, 5, "train")
    other = generate(family, 50, 6, "train")
    assert first == again
    assert len({problem.id for problem in first}) == 50
    assert first != other


def test_too_many_problems_are_refused_with_the_number_there_is() -> None:
    with pytest.raises(ValueError, match=r"too few train problems for 5000 .*; 1\d{3} were found"):
        generate("base_conversion", 5_000, 0, "train")
    with pytest.raises(ValueError, match="no family 'sums'; there are running_sum"):
        generate("sums", 1, 0, "train")


def test_check_is_exact() -> None:
    problem = problems("product", 1)[0]
    assert check(problem, f" {problem.answer} ")
    assert not check(problem, problem.answer + "0")
    assert not check(problem, "")


# reasoning-gym generates three of these families too. It needs a compiler, so it is an extra.


def test_sums_agree_with_reasoning_gym() -> None:
    gym = pytest.importorskip("reasoning_gym", reason="pip install 'r1kit[gym]'")
    for item in gym.create_dataset("chain_sum", size=100, seed=1, min_terms=4, max_terms=4):
        numbers = re.findall(r"[+-]?\s*\d+", item["metadata"]["expression"])
        values = tuple(int(number.replace(" ", "")) for number in numbers)
        assert FAMILIES["running_sum"].answer(values) == item["answer"]


def test_divisors_agree_with_reasoning_gym() -> None:
    gym = pytest.importorskip("reasoning_gym", reason="pip install 'r1kit[gym]'")
    for item in gym.create_dataset("gcd", size=100, seed=1, min_numbers=2, max_numbers=2):
        numbers = tuple(item["metadata"]["numbers"])
        assert FAMILIES["gcd"].answer(numbers) == item["answer"]
        left, right = max(numbers), min(numbers)
        while right:
            left, right = max(right, left - right), min(right, left - right)
        assert left == math.gcd(*numbers)


def test_products_agree_with_reasoning_gym() -> None:
    gym = pytest.importorskip("reasoning_gym", reason="pip install 'r1kit[gym]'")
    dataset = gym.create_dataset("products", size=100, seed=1, min_terms=2, max_terms=2)
    for item in dataset:
        numbers = tuple(
            int(number) for number in re.findall(r"\d+", item["question"].split("=")[0])
        )
        assert FAMILIES["product"].answer(numbers[-2:]) == item["answer"]


def test_bases_agree_with_reasoning_gym() -> None:
    gym = pytest.importorskip("reasoning_gym", reason="pip install 'r1kit[gym]'")
    compared = 0
    for item in gym.create_dataset("base_conversion", size=300, seed=1, min_base=3, max_base=10):
        facts = item["metadata"]
        if facts["target_base"] == 10 and facts["source_base"] != 10:
            numbers = int(facts["source_repr"]), facts["source_base"]
            assert FAMILIES["base_conversion"].answer(numbers) == item["answer"]
            compared += 1
    assert compared >= 20

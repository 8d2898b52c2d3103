"""The embedded problem families: statements, worked steps and exact checks.

Each family needs several dependent steps, and the steps differ in kind: carrying through columns
(running sums), partial products (multiplication), Horner's scheme (base conversion), a state
tracked through swaps, repeated subtraction (greatest common divisor). The worked steps write every
digit that a later digit depends on, at fixed distances, which is what a model of a million
parameters can learn within minutes; the statements are plain sentences.

A problem is drawn from its family's numbers. Whether it belongs to `train` or `test` is decided by
a hash of the numbers, so the splits never share a problem, whatever the seed or the wording.
"""

import hashlib
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "test"]
Numbers = tuple[int, ...]

CUPS = "ABCDE"
TEST_SHARE = 8
"""One problem in so many is held out."""


@dataclass(frozen=True, slots=True)
class TinyProblem:
    """One generated problem with its exact answer."""

    id: str
    statement: str
    answer: str
    family: str
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Family:
    """How problems of one kind are drawn, worded, worked and checked.

    Attributes:
        draw: the numbers of a random problem.
        wordings: format strings over the numbers, `{0}` the first.
        work: the worked steps, one per line, as the thinking of a solution.
        answer: the exact answer, computed without the steps.
        canonical: the numbers in a form that problems with the same solution share (a sum in
            another order), so that such twins fall into one split.
    """

    name: str
    draw: Callable[[random.Random], Numbers]
    wordings: tuple[str, ...]
    work: Callable[[Numbers], str]
    answer: Callable[[Numbers], str]
    canonical: Callable[[Numbers], Numbers]


def generate(family: str, count: int, seed: int, split: Split) -> list[TinyProblem]:
    """Draw `count` different problems of one family; the same arguments give the same problems.

    Raises:
        ValueError: the family is unknown, or has fewer problems in this split than asked for.
    """
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}; there are {', '.join(FAMILIES)}")
    kind = FAMILIES[family]
    rng = random.Random(f"{family}/{split}/{seed}")
    problems: dict[Numbers, TinyProblem] = {}
    misses = 0
    while len(problems) < count:
        numbers = kind.draw(rng)
        if numbers in problems or split_of(family, numbers) != split:
            misses += 1
            if misses > 1_000 + 200 * count:
                raise ValueError(
                    f"family {family} has too few {split} problems for {count} different ones; "
                    f"{len(problems)} were found"
                )
            continue
        problems[numbers] = _word(kind, numbers, rng)
    return list(problems.values())


def draw(family: str, rng: random.Random, split: Split) -> TinyProblem:
    """Draw one problem of a split; a later draw may repeat it."""
    kind = FAMILIES[family]
    while True:
        numbers = kind.draw(rng)
        if split_of(family, numbers) == split:
            return _word(kind, numbers, rng)


def _word(kind: Family, numbers: Numbers, rng: random.Random) -> TinyProblem:
    statement = rng.choice(kind.wordings).format(*numbers)
    name = f"{kind.name}-{'-'.join(map(str, numbers))}"
    return TinyProblem(name, statement, kind.answer(numbers), kind.name, numbers)


def split_of(family: str, numbers: Numbers) -> Split:
    """The split a problem belongs to, by a hash of what it is and not of how it is worded."""
    canonical = FAMILIES[family].canonical(numbers)
    digest = hashlib.sha256(f"{family}:{canonical}".encode()).digest()
    return "test" if digest[0] % TEST_SHARE == 0 else "train"


def solution(problem: TinyProblem) -> str:
    """The reply that solves a problem: thinking between its tags, then the boxed answer."""
    steps = FAMILIES[problem.family].work(problem.numbers)
    return f"<think>\n{steps}\n</think>\n\\boxed{{{problem.answer}}}"


def check(problem: TinyProblem, answer: str) -> bool:
    """Whether `answer` is exactly the problem's, blanks aside."""
    return answer.replace(" ", "") == problem.answer.replace(" ", "")


def _sorted(numbers: Numbers) -> Numbers:
    return tuple(sorted(numbers))


def _columns(left: int, right: int, width: int) -> str:
    """Add column by column from the units: each column's sum in two digits, its carry in front."""
    carry, sums = 0, []
    for place in range(width):
        total = left // 10**place % 10 + right // 10**place % 10 + carry
        sums.append(f"{total:02d}")
        carry = total // 10
    return f"{left:0{width}d}+{right:0{width}d}:{','.join(sums)}={left + right:0{width}d}"


def _times_digit(number: int, digit: int) -> str:
    """A two-digit number times a digit: each product, the carry, and the sum of both."""
    low, high = number % 10 * digit, number // 10 * digit
    return f"{number}*{digit}:{low:02d},{high:02d}+{low // 10}={number * digit // 10:02d};" + (
        f"{number * digit:03d}"
    )


def _work_running_sum(numbers: Numbers) -> str:
    total, lines = numbers[0], []
    for number in numbers[1:]:
        lines.append(_columns(total, number, 3))
        total += number
    return "\n".join(lines)


def _work_product(numbers: Numbers) -> str:
    left, right = numbers
    low, high = left * (right % 10), left * (right // 10) * 10
    return "\n".join(
        (
            _times_digit(left, right % 10),
            _times_digit(left, right // 10),
            _columns(low, high, 4),
        )
    )


def _work_base_conversion(numbers: Numbers) -> str:
    numeral, base = numbers
    first, second, third = (int(digit) for digit in str(numeral))
    head = first * base + second
    return f"{first}*{base}={first * base:02d}+{second}={head:02d}\n" + (
        f"{head:02d}*{base}:{head % 10 * base:02d}+{third}={head % 10 * base + third:02d},"
        f"{head // 10 * base:02d}+{(head % 10 * base + third) // 10}="
        f"{(head * base + third) // 10:02d};{head * base + third:03d}"
    )


def _orders(numbers: Numbers) -> list[str]:
    """The order of the cups after each swap."""
    cups, orders = list(CUPS), []
    for first, second in _pairs(numbers):
        cups[first - 1], cups[second - 1] = cups[second - 1], cups[first - 1]
        orders.append("".join(cups))
    return orders


def _pairs(numbers: Numbers) -> list[tuple[int, int]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _work_swaps(numbers: Numbers) -> str:
    steps = zip(_pairs(numbers), _orders(numbers), strict=True)
    return f"{CUPS}\n" + "\n".join(f"{first}{second}>{order}" for (first, second), order in steps)


def _subtractions(numbers: Numbers) -> list[tuple[int, int]]:
    left, right = max(numbers), min(numbers)
    pairs = []
    while right:
        pairs.append((left, right))
        left, right = max(right, left - right), min(right, left - right)
    return pairs


def _work_gcd(numbers: Numbers) -> str:
    return "\n".join(_minus(left, right) for left, right in _subtractions(numbers))


def _minus(left: int, right: int) -> str:
    """Subtract column by column from the units: each column's borrow and its digit."""
    borrow, digits = 0, []
    for place in range(3):
        column = left // 10**place % 10 - right // 10**place % 10 - borrow
        borrow = int(column < 0)
        digits.append(f"{borrow}{column % 10}")
    return f"{left:03d}-{right:03d}:{','.join(digits)}={left - right:03d}"


def _draw_base(rng: random.Random) -> Numbers:
    base = rng.randint(3, 9)
    digits = [rng.randint(1, base - 1), rng.randrange(base), rng.randrange(base)]
    return int("".join(map(str, digits))), base


def _draw_gcd(rng: random.Random) -> Numbers:
    """Two numbers below 1,000 that two to four subtractions lead to their divisor."""
    while True:
        left, right = rng.randint(1, 5), rng.randint(1, 5)
        if math.gcd(left, right) == 1 and 2 <= len(_subtractions((left, right))) <= 4:
            divisor = rng.randint(11, 999 // max(left, right))
            return divisor * left, divisor * right


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "running_sum",
            lambda rng: tuple(rng.randint(10, 99) for _ in range(4)),
            (
                "A shop sells {0}, {1}, {2} and {3} apples. How many in all?",
                "Add up {0}, {1}, {2} and {3}.",
                "What is the sum of {0}, {1}, {2} and {3}?",
            ),
            _work_running_sum,
            lambda numbers: str(sum(numbers)),
            canonical=_sorted,
        ),
        Family(
            "product",
            lambda rng: (rng.randint(11, 99), rng.randint(11, 99)),
            (
                "A hall has {0} rows of {1} seats. How many seats?",
                "What is {0} times {1}?",
                "Multiply {0} by {1}.",
            ),
            _work_product,
            lambda numbers: str(numbers[0] * numbers[1]),
            canonical=_sorted,
        ),
        Family(
            "base_conversion",
            _draw_base,
            (
                "Write the base {1} number {0} in base ten.",
                "What is {0} in base {1} as a decimal number?",
            ),
            _work_base_conversion,
            lambda numbers: str(int(str(numbers[0]), numbers[1])),
            canonical=lambda numbers: numbers,
        ),
        Family(
            "swaps",
            lambda rng: tuple(place for _ in range(5) for place in rng.sample(range(1, 6), 2)),
            (
                "Cups ABCDE: swap {0}-{1}, {2}-{3}, {4}-{5}, {6}-{7}, {8}-{9}. Which order?",
                "Cups ABCDE trade places {0}-{1}, {2}-{3}, {4}-{5}, {6}-{7}, {8}-{9}. What order?",
            ),
            _work_swaps,
            lambda numbers: _orders(numbers)[-1],
            canonical=lambda numbers: tuple(
                place for pair in _pairs(numbers) for place in sorted(pair)
            ),
        ),
        Family(
            "gcd",
            _draw_gcd,
            (
                "What is the greatest common divisor of {0} and {1}?",
                "Find the largest number that divides both {0} and {1}.",
            ),
            _work_gcd,
            lambda numbers: str(math.gcd(*numbers)),
            canonical=_sorted,
        ),
    )
}

"""Contamination: planted overlaps are found and shown, wording that a suite repeats is not one."""

import random
from pathlib import Path

import pytest
from r1kit.eval.contamination import Hit, Index
from r1kit.eval.problems import Problem, load_problems
from r1kit.eval.suites import load_suite
from r1kit.teacher.tiny.families import FAMILIES, generate

WORDS = [f"w{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]


def problem(name: str, statement: str) -> Problem:
    return Problem(name, statement, "1", "suite")


def words(count: int, seed: int) -> list[str]:
    return random.Random(seed).choices(WORDS, k=count)


def test_a_planted_passage_of_n_words_hits_and_one_word_less_does_not() -> None:
    held = words(30, 1)
    index = Index.build({"suite": [problem("a", " ".join(held))]})
    for length, hit in ((13, True), (12, False), (20, True)):
        planted = " ".join([*words(8, 2), *held[5 : 5 + length], *words(8, 3)])
        found = index.hits(planted)
        assert (found is not None) == hit
        if found is not None:
            assert found == Hit("suite", "a", " ".join(held[5 : 5 + length]))


def test_case_punctuation_and_latex_spacing_do_not_matter() -> None:
    held = (
        r"Let $x$ and $y$ be real numbers such that $\left( x + y \right)^2 = \dfrac{1}{2}$, "
        "and find the largest value that they can take."
    )
    copied = (
        "Problem 3. LET x AND y BE REAL NUMBERS such that: "
        r"$(x+y)^2\,=\,\frac{1}{2}$; and find the largest value that they can take!"
    )
    hit = Index.build({"s": [problem("a", held)]}).hits(copied)
    assert hit is not None
    assert hit.span.startswith("LET x AND y") and hit.span.endswith("can take")


def test_the_span_is_text_of_the_statement_that_was_looked_up() -> None:
    held = " ".join(words(20, 1))
    shouted = f"(Copied:)  {held.upper().replace(' ', ',  ')}  -- end"
    hit = Index.build({"s": [problem("a", held)]}).hits(shouted)
    assert hit is not None and hit.span in shouted
    assert len(hit.span.split()) == 20


def test_short_statements_are_compared_as_a_whole_with_their_signs() -> None:
    index = Index.build({"s": [problem("a", "Compute $2 + 3$.")]})
    assert index.hits("compute 2+3") == Hit("s", "a", "compute 2+3")
    assert index.hits("Compute 2 - 3.") is None
    assert index.hits("Compute 2 + 3 + 4.") is None
    assert index.hits("Please compute 2 + 3.") is None
    assert index.hits("") is None


def test_wording_that_a_suite_repeats_is_not_a_leak_but_whole_copies_are() -> None:
    wording = " ".join(words(20, 1))
    suite = [problem(str(i), f"{wording} {i} {' '.join(words(4, i))}") for i in range(100, 110)]
    index = Index.build({"s": suite})
    assert index.boilerplate == 8
    assert index.hits(f"{wording} 999 {' '.join(words(4, 999))}") is None
    hit = index.hits(suite[3].statement.upper())
    assert hit is not None and hit.problem_id == "103"


def test_ideographs_count_as_words() -> None:
    held = "求所有满足下列条件的正整数对使得它们的和等于一百"
    index = Index.build({"s": [problem("a", held)]})
    assert index.hits("问题:" + held[3:18] + "吗") == Hit("s", "a", held[3:18])
    assert index.hits("问题:" + held[3:15] + "吗") is None


def test_n_must_be_positive() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        Index.build({}, n=0)


def test_training_problems_of_the_embedded_families_leak_into_no_suite(data_dir: Path) -> None:
    suites = {
        "math500": load_problems(data_dir / "math500/test.jsonl"),
        "tiny": load_suite("tiny"),
    }
    index = Index.build(suites)
    made = [p for name in FAMILIES for p in generate(name, 300, 0, "train")]
    hits = [hit for p in made if (hit := index.hits(p.statement)) is not None]
    assert hits == []


def test_math500_hits_itself_and_not_the_school_problems(data_dir: Path) -> None:
    math500 = load_problems(data_dir / "math500/test.jsonl")
    index = Index.build({"math500": math500})
    assert all(index.hits(p.statement) is not None for p in math500)
    school = load_problems(data_dir / "gsm8k/test.jsonl")
    assert [p.id for p in school if index.hits(p.statement) is not None] == []

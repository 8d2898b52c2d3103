"""Scores: what counts, what is shown, pass@k and cons@k against their definitions."""

import io
import itertools
import json
import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from r1kit.eval.outcome import Outcome, OutcomeError
from r1kit.eval.score import (
    ScoreCard,
    ScoreError,
    cons_credit,
    pass_at_1,
    pass_at_k,
    summarise,
    summarise_by_source,
    wilson,
)
from r1kit.eval.score_table import card_lines, print_cards
from r1kit.eval.verdict import Verdict
from rich.console import Console

C, W, U, I = Verdict.CORRECT, Verdict.WRONG, Verdict.UNVERIFIABLE, Verdict.INFRA_ERROR  # noqa: E741


def test_one_sample_each_gives_the_share_and_wilsons_interval() -> None:
    score = pass_at_1({str(i): [C if i < 8 else W] for i in range(10)})
    assert (score.value, score.n, score.samples) == (0.8, 10, 1)
    # Wilson's interval for 8 of 10, by its closed form.
    z = 1.959963984540054
    centre = (8 + z * z / 2) / (10 + z * z)
    half = z / (10 + z * z) * math.sqrt(8 * 2 / 10 + z * z / 4)
    assert score.ci95 == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert score.ci95 == pytest.approx((0.4901625, 0.9433178), abs=1e-6)


def test_all_right_and_all_wrong_are_not_certain() -> None:
    low = 30 / (30 + 1.959963984540054**2)
    assert wilson(1.0, 30) == pytest.approx((low, 1.0), abs=1e-12)
    assert wilson(0.0, 30) == pytest.approx((0.0, 1 - low), abs=1e-12)
    score = pass_at_1({str(i): [C, C, C] for i in range(30)})
    assert score.ci95 == pytest.approx((low, 1.0), abs=1e-12)


def test_undecided_answers_count_as_not_right_and_are_shown() -> None:
    score = pass_at_1({"a": [C], "b": [U], "c": [I], "d": [W]}, truncated=1)
    assert (score.value, score.undecided, score.truncated) == (0.25, 2, 1)


def test_several_samples_are_averaged_within_each_problem_first() -> None:
    score = pass_at_1({"a": [C, C, C, C], "b": [W, W]})
    assert (score.value, score.n, score.samples) == (0.5, 2, 4)


def test_the_interval_widens_with_the_problems_not_with_the_samples() -> None:
    rng = random.Random(0)
    shares = [rng.random() for _ in range(200)]
    verdicts = {
        str(i): [C if rng.random() < share else W for _ in range(16)]
        for i, share in enumerate(shares)
    }
    score = pass_at_1(verdicts)
    means = [sum(v is C for v in each) / 16 for each in verdicts.values()]
    spread = math.sqrt(sum((m - score.value) ** 2 for m in means) / 199 / 200)
    width = score.ci95[1] - score.ci95[0]
    assert width == pytest.approx(2 * 1.972 * spread, rel=0.02)
    assert width > 1.5 * 2 * 1.96 * math.sqrt(score.value * (1 - score.value) / (200 * 16))


def test_nothing_to_score_is_an_error_with_a_sentence() -> None:
    with pytest.raises(ScoreError, match="at least one problem, got none"):
        pass_at_1({})
    with pytest.raises(ScoreError, match="problem 'a' has no samples"):
        pass_at_1({"a": []})


def sample(
    problem: str,
    index: int,
    verdict: Verdict,
    name: str | None = None,
    *,
    cut: bool = False,
    tokens: int = 100,
    source: str = "aime",
) -> Outcome:
    """One outcome; an answer's class is its name, and without a name there is no answer."""
    return Outcome(problem, index, verdict, name is not None, cut, tokens, name, source)


def printed(cards: dict[str, ScoreCard]) -> str:
    """What people read."""
    console = Console(width=140, file=io.StringIO(), record=True)
    print_cards(console, cards, "scores")
    return console.export_text()


def problem(name: str, *answers: tuple[Verdict, str | None]) -> list[Outcome]:
    """The samples of one problem."""
    return [sample(name, index, *answer) for index, answer in enumerate(answers)]


@given(st.integers(1, 8).flatmap(lambda m: st.tuples(st.just(m), st.integers(0, m))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples: tuple[int, int]) -> None:
    m, c = samples
    marks = [True] * c + [False] * (m - c)
    for k in range(1, m + 1):
        subsets = list(itertools.combinations(marks, k))
        assert pass_at_k(m, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_pass_at_k_is_unbiased_for_new_samples() -> None:
    rng = random.Random(0)
    p, m, k, runs = 0.2, 16, 4, 20_000
    told = [pass_at_k(m, sum(rng.random() < p for _ in range(m)), k) for _ in range(runs)]
    # One run spreads by at most 0.5, so 20,000 of them by 0.0035; three of those.
    assert math.fsum(told) / runs == pytest.approx(1 - (1 - p) ** k, abs=0.011)


def test_pass_at_k_stands_for_powers_of_two_that_every_problem_has() -> None:
    card = summarise(
        problem("a", (C, "1"), *[(W, "2")] * 6) + problem("b", *[(C, "1")] * 3, *[(W, "0")] * 2)
    )
    assert list(card.pass_at) == [1, 2, 4]
    assert card.per_problem == (5, 7)
    want = (pass_at_k(7, 1, 4) + pass_at_k(5, 3, 4)) / 2
    assert card.pass_at[4].value == pytest.approx(want, abs=1e-12)
    assert card.pass_at_1 is not None
    assert card.pass_at_1.value == pytest.approx((1 / 7 + 3 / 5) / 2, abs=1e-12)


@given(st.lists(st.sampled_from("abcd"), max_size=8), st.sets(st.sampled_from("abcd"), max_size=2))
def test_a_tie_counts_as_what_a_coin_among_the_tied_would_bring(
    answers: list[str], right: set[str]
) -> None:
    votes = Counter(answers)
    rights = Counter(name for name in answers if name in right)
    most = max(votes.values(), default=0)
    winners = [name for name in votes if votes[name] == most]
    want = sum(name in right for name in winners) / len(winners) if winners else 0.0
    assert cons_credit(votes, rights) == pytest.approx(want, abs=1e-12)


def test_the_majority_is_of_classes_and_silence_casts_no_vote() -> None:
    outcomes = (
        problem("majority", (C, "1/2"), (C, "1/2"), (W, "3"), (W, None))
        + problem("tie", (C, "7"), (W, "8"), (W, None), (W, None))
        + problem("outvoted", (C, "1"), (W, "2"), (W, "2"), (U, "x"))
        + problem("silent", *[(W, None)] * 4)
    )
    card = summarise(outcomes)
    assert card.cons_at[4].value == (1 + 0.5 + 0 + 0) / 4
    assert card.no_cons == ""


def test_a_majority_of_fewer_voters_is_what_drawing_them_brings() -> None:
    answers = [(C, "1"), (C, "1"), (W, "2"), *[(W, None)] * 5]
    outcomes = [each for i in range(40) for each in problem(str(i), *answers)]
    card = summarise(outcomes)
    draws = list(itertools.combinations(outcomes[:8], 4))
    credits = []
    for draw in draws:
        votes = Counter(each.answer_class for each in draw if each.answer_class)
        winners = [name for name in votes if votes[name] == max(votes.values())]
        credits.append(sum(name == "1" for name in winners) / max(len(winners), 1))
    # 40 x 200 draws of a credit in [0, 1] err by at most 0.0056; three of those.
    assert card.cons_at[4].value == pytest.approx(sum(credits) / len(draws), abs=0.017)
    assert card.cons_at == summarise(outcomes).cons_at
    assert list(card.cons_at) == [4, 8]


def test_no_majority_is_told_where_answers_have_no_classes() -> None:
    outcomes = [Outcome("a", i, C, True, False, 5, None) for i in range(4)]
    card = summarise(outcomes)
    assert card.cons_at == {}
    assert card.no_cons == "4 of 4 answers belong to no class of equal answers"
    assert summarise(outcomes[:1]).no_cons == "a majority needs more than one sample per problem"


def test_infrastructure_errors_are_never_wrong_answers() -> None:
    card = summarise(
        problem("a", (C, "1"), (I, None))
        + problem("b", (W, "2"), (U, "x"))
        + problem("c", (I, None))
    )
    assert card.pass_at_1 is not None
    assert card.pass_at_1.value == (1 + 0) / 2
    assert (card.problems, card.dropped, card.samples, card.infra) == (2, 1, 5, 2)
    assert (card.unverifiable, card.share(card.unverifiable)) == (1, 0.2)
    # Everything undecided wrong: 1/2, 0, 0; right: 1, 1/2, 1.
    assert card.bounds == pytest.approx((1 / 6, 5 / 6), abs=1e-12)


def test_more_than_one_percent_of_infrastructure_errors_is_not_final() -> None:
    def lost(count: int) -> list[Outcome]:
        return [
            sample(str(i), j, I if 2 * i + j < count else C, "1")
            for i in range(100)
            for j in (0, 1)
        ]

    final, not_final = summarise(lost(2)), summarise(lost(3))
    assert (final.is_final, not_final.is_final) == (True, False)
    assert not_final.not_final == (
        "3 of 200 samples (1.5 %) ended in infrastructure errors, over 1 %; the same command asks "
        "for them again"
    )
    assert not_final.to_json()["final"] is False
    text = printed({"all": not_final})
    assert "NOT FINAL: 3 of 200 samples" in text
    assert "(100.0 %)" in text and "not final" in text
    assert "not final" not in printed({"all": final}).lower()


def test_a_score_of_nothing_but_lost_samples_has_no_value() -> None:
    card = summarise([sample("a", 0, I), sample("b", 0, I)])
    assert card.pass_at_1 is None
    assert (card.problems, card.dropped, card.is_final) == (0, 2, False)
    assert card.to_json()["pass@1"] is None
    assert card.bounds == (0.0, 1.0)
    assert "none" in printed({"all": card})


def test_the_ways_of_not_answering_are_told_apart() -> None:
    card = summarise(
        [
            sample("a", 0, C, "1"),
            sample("a", 1, W, None, cut=True),
            sample("a", 2, W, None),
            sample("a", 3, U, "x"),
            sample("a", 4, W, "2"),
        ]
    )
    assert (card.right, card.truncated, card.unanswered, card.unverifiable) == (1, 1, 1, 1)


def test_lengths_are_real_lengths_and_leave_lost_samples_out() -> None:
    outcomes = [sample(str(i), 0, C if i <= 60 else W, "1", tokens=10 * i) for i in range(1, 101)]
    card = summarise([*outcomes, sample("lost", 0, I, tokens=0)])
    assert card.lengths["all"].percentiles == {10: 100, 50: 500, 90: 900, 99: 990}
    assert (card.lengths["all"].samples, card.lengths["all"].longest) == (100, 1000)
    assert card.lengths["right"].percentiles[50] == 300
    assert card.lengths["not_right"].percentiles[10] == 640
    three = summarise([sample(str(i), 0, C, "1", tokens=i) for i in (1, 2, 3)])
    assert three.lengths["all"].percentiles == {10: 1, 50: 2, 90: 3, 99: 3}
    bins = [(b.shortest, b.longest, b.samples, b.right) for b in card.by_length]
    assert bins == [
        (10, 250, 25, 25),
        (260, 500, 25, 25),
        (510, 750, 25, 10),
        (760, 1000, 25, 0),
    ]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_every_sample_is_in_one_length_bin(tokens: list[int]) -> None:
    card = summarise([sample(str(i), 0, W, "1", tokens=length) for i, length in enumerate(tokens)])
    assert sum(each.samples for each in card.by_length) == len(tokens)
    for one, following in itertools.pairwise(card.by_length):
        assert one.longest < following.shortest


def test_one_source_is_scored_like_a_set_of_its_own() -> None:
    mine = problem("a", (C, "1"), (W, "2"))
    other = [sample("b", 0, W, "1", source="math500")]
    cards = summarise_by_source([*other, *mine])
    assert list(cards) == ["aime", "math500"]
    assert cards["aime"] == summarise(mine)


def test_ids_may_be_shared_between_suites_but_not_within_one() -> None:
    twice = [Outcome("1", 0, C, True, False, 5, "x", suite=suite) for suite in ("aime24", "aime25")]
    assert summarise(twice).problems == 2
    with pytest.raises(OutcomeError, match="problem aime24: 1: sample 0 is there twice"):
        summarise([twice[0], twice[0]])


def test_the_json_is_plain_and_holds_no_nan() -> None:
    for outcomes in (
        [sample("a", 0, I)],
        [sample("a", 0, C, "1")],
        problem("a", (C, "1"), (W, "2")),
        problem("a", *[(C, "1")] * 8) + problem("b", *[(W, None)] * 8),
    ):
        values = summarise(outcomes).to_json()
        assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert list(values["pass@k"]) == ["1", "2", "4", "8"]
    assert values["pass@1"]["value"] == values["pass@k"]["8"]["value"] == 0.5
    assert values["cons@k"]["8"]["value"] == 0.5


def test_the_lines_name_both_kinds_of_noise_and_the_estimator() -> None:
    card = summarise(problem("a", (C, "1"), (W, "2")) + problem("b", (C, "1"), (C, "1")))
    text = " ".join(card_lines(card))
    assert "standard error 25.00 points, clustered by problem: 0.00 points from the choice" in text
    assert "25.00 points from rerunning" in text
    assert "Student's t" in text
    single = summarise([sample("a", 0, C, "1"), sample("b", 0, W, "1")])
    assert "cannot tell rerun noise from question noise" in " ".join(card_lines(single))

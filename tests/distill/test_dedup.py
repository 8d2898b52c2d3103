"""Exact dedup: the same reply to the same problem stays once, and nothing else goes."""

import pytest
from r1kit.distill.dedup import duplicates
from r1kit.distill.trace import Trace
from r1kit.eval.problems import Problem
from r1kit.teacher.engine import Completion, Finish


def trace(key: str, statement: str, reply: str, problem_id: str = "p") -> Trace:
    problem = Problem(problem_id, statement, "2", "tiny")
    return Trace(problem, key, 0, Completion(reply, "", "", Finish.STOP, 1, 1))


def test_the_first_in_order_stays_and_all_others_name_it() -> None:
    traces = [trace(key, "1+1?", "<think>a</think>2") for key in "cab"]
    assert duplicates(traces) == {"a": "c", "b": "c"}
    assert duplicates(reversed(traces)) == {"a": "b", "c": "b"}


def test_the_same_reply_to_another_problem_stays() -> None:
    assert duplicates([trace("a", "1+1?", "2"), trace("b", "3-1?", "2")]) == {}


def test_the_same_problem_under_another_id_is_the_same() -> None:
    found = duplicates([trace("a", "1+1?", "2", "p1"), trace("b", "1+1?", "2", "p2")])
    assert found == {"b": "a"}


@pytest.mark.parametrize("other", [" 1+1=2 \n\n so 2", "1+1=2\tso 2", "1+1=2 so\u00a02"])
def test_blanks_do_not_count(other: str) -> None:
    assert duplicates([trace("a", "?", "1+1=2 so 2"), trace("b", "?", other)]) == {"b": "a"}


def test_composed_letters_are_the_same_letters() -> None:
    assert duplicates([trace("a", "?", "caf\u00e9"), trace("b", "?", "cafe\u0301")]) == {"b": "a"}


@pytest.mark.parametrize(("one", "other"), [("x", "X"), ("x\u00b2", "x2"), ("1 2", "12")])
def test_what_differs_in_mathematics_stays(one: str, other: str) -> None:
    assert duplicates([trace("a", "?", one), trace("b", "?", other)]) == {}


def test_statement_and_reply_do_not_run_into_each_other() -> None:
    assert duplicates([trace("a", "ab", "c"), trace("b", "a", "bc")]) == {}


def test_half_a_character_does_not_stop_it() -> None:
    assert duplicates([trace("a", "?", "\ud800"), trace("b", "?", "\ud800")]) == {"b": "a"}

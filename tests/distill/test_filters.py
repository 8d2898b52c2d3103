"""Filters: each tag for what it is meant for, with its evidence, and never for sound work."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError
from r1kit.distill.filters import FilterSettings, TagName, excluding, tag
from r1kit.distill.funnel import STEPS, step_of, survivors, waterfall
from r1kit.distill.repetition import compression_ratio, longest_line_run, repeated_spans
from r1kit.distill.trace import Tag, Trace
from r1kit.eval.math.extract import Rule
from r1kit.eval.math.verify import Judgement
from r1kit.eval.problems import Problem
from r1kit.eval.verdict import Verdict
from r1kit.teacher.engine import Completion, Finish, Request, Response, Sampling, parse_response
from r1kit.teacher.engine import Prompt as Asked
from r1kit.teacher.tiny.families import FAMILIES, generate, solution

SOUND = "<think>\n17+25=42\n</think>\nIt is \\boxed{42}."
DEFAULT = FilterSettings()
LOOP = "Wait, let me check that again. So the answer is 4. Hmm, but maybe it is 5.\n"


def trace(
    text: str = SOUND,
    *,
    finish: str = "stop",
    tokens: int | None = 30,
    verdict: Verdict | None = Verdict.CORRECT,
    statement: str = "What is 17 plus 25?",
    source: str = "tiny/running_sum",
    key: str = "0" * 64,
    prefill: str = "",
) -> Trace:
    """A trace as the pipeline gets it: parsed from a raw response."""
    body: dict[str, Any] = {
        "choices": [{"message": {"content": text}, "finish_reason": finish}],
        "usage": {} if tokens is None else {"prompt_tokens": 9, "completion_tokens": tokens},
    }
    asked = Request(Asked.user(statement, prefill=prefill), Sampling(), 0, 0)
    completion = parse_response(Response(asked, json.dumps(body), "here", 0.1))
    judged = None
    if verdict is not None:
        judged = Judgement(verdict, "41", Rule.BOXED, "different numbers")
    return Trace(Problem("p1", statement, "42", source), key, 0, completion, judged)


def names(of: Trace, settings: FilterSettings = DEFAULT) -> list[str]:
    return [each.name for each in tag(of, settings)]


def thought(steps: str) -> str:
    """A reply whose thinking is `steps`."""
    return f"<think>\n{steps}\n</think>\nSo it is \\boxed{{42}}."


def additions(num_lines: int, rng: random.Random) -> str:
    """Steps like `047+082:09,12,01=129`, one after the other."""
    total, lines = 0, []
    for _ in range(num_lines):
        number = rng.randint(10, 99)
        units = total % 10 + number % 10
        tens = total // 10 % 10 + number // 10 + units // 10
        hundreds = total // 100 + tens // 10
        lines.append(f"{total:03d}+{number:03d}:{units:02d},{tens:02d},{hundreds:02d}")
        total = (total + number) % 900
        lines[-1] += f"={total:03d}"
    return "\n".join(lines)


def test_nothing_speaks_against_a_sound_trace() -> None:
    assert tag(trace(), DEFAULT) == ()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_no_worked_solution_of_the_embedded_families_is_tagged(family: str) -> None:
    for problem in generate(family, 200, seed=5, split="train"):
        one = trace(solution(problem), statement=problem.statement)
        assert tag(one, DEFAULT) == (), solution(problem)


@pytest.mark.parametrize("verdict", [Verdict.WRONG, Verdict.UNVERIFIABLE, Verdict.INFRA_ERROR])
def test_a_verdict_other_than_correct_is_its_tag(verdict: Verdict) -> None:
    (found,) = tag(trace(verdict=verdict), DEFAULT)
    assert found == Tag(verdict.value, "answered 41, the gold answer is 42: different numbers")


def test_an_answer_that_no_judge_saw_is_not_called_wrong() -> None:
    assert names(trace(verdict=None)) == ["unjudged"]


def test_a_reply_that_was_cut_off_has_no_answer_that_a_judge_could_have_missed() -> None:
    assert names(trace(finish="length", verdict=None)) == ["truncated"]


def test_what_does_not_fit_the_context_has_a_reason_of_its_own_that_always_excludes() -> None:
    error = "the prompt has 1738 tokens and leaves no room for a reply: max_length is 1024"
    nothing = Completion("", None, None, Finish.ERROR, 0, 0, error=error)
    settings = FilterSettings(exclude=())
    found = tag(replace(trace(), completion=nothing), settings)
    assert found == (Tag("context_exceeded", error),)
    assert excluding(found, settings) == found[0]
    assert step_of("context_exceeded") == "answer"


def test_an_engine_error_is_the_only_tag_and_always_excludes() -> None:
    asked = Request(Asked.user("?"), Sampling(), 0, 0)
    failed = parse_response(Response(asked, "", "here", 0.1, error="HTTP 500 six times"))
    found = tag(replace(trace(), completion=failed), DEFAULT)
    assert found == (Tag("engine_error", "HTTP 500 six times"),)
    assert excluding(found, FilterSettings(exclude=())) == found[0]


def test_a_truncated_reply_says_after_how_many_tokens() -> None:
    cut = trace("<think>\n17+", finish="length", tokens=32_768, verdict=None)
    assert tag(cut, DEFAULT)[0] == Tag("truncated", "cut off after 32,768 tokens")
    assert excluding(tag(cut, DEFAULT), DEFAULT) == tag(cut, DEFAULT)[0]


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        ("<think>\n17+25=42\n\\boxed{42}", "the thinking is never closed"),
        ("<think>a<think>b</think>\\boxed{42}", "opened 2 times and closed 1 times"),
        ("<think>a</think>b</think>\\boxed{42}", "opened 1 times and closed 2 times"),
        ("17+25=42</think>\\boxed{42}", "closed but never opened"),
        ("a</think>b<think>\\boxed{42}", "closed before it is opened"),
        ("Sure!\n<think>a</think>\\boxed{42}", "text stands before the thinking: 'Sure!'"),
        ("<think>\n\n</think>\\boxed{42}", "the thinking is empty"),
        ("It is \\boxed{42}.", "there is no thinking"),
        ("<think>17+25=42</think>\n\n", "no answer follows the thinking"),
        ("<think>\\boxed{42}</think>It is 42.", "holds no \\boxed{}: 'It is 42.'"),
    ],
)
def test_a_bad_format_is_named(text: str, evidence: str) -> None:
    (found,) = tag(trace(text), DEFAULT)
    assert found.name == "format"
    assert evidence in found.evidence


def test_a_forced_opening_counts_as_the_models_own() -> None:
    assert names(trace("17+25=42\n</think>\n\\boxed{42}", prefill="<think>\n")) == []


def test_box_and_thinking_are_required_only_where_they_are() -> None:
    settings = FilterSettings(require_box=False, require_thinking=False)
    assert names(trace("It is 42."), settings) == []
    assert names(trace("   "), settings) == ["format"]


def test_lengths_are_held_to_their_limits_and_the_limits_belong_to_the_range() -> None:
    settings = FilterSettings(min_tokens=30, max_tokens=40)
    found = {tokens: names(trace(tokens=tokens), settings) for tokens in (29, 30, 40, 41)}
    assert found == {29: ["too_short"], 30: [], 40: [], 41: ["too_long"]}


def test_a_length_that_nobody_counted_is_not_taken_for_zero() -> None:
    assert names(trace(tokens=None)) == []
    assert names(trace(tokens=None), FilterSettings(max_tokens=40)) == ["length_unknown"]


@pytest.mark.parametrize("num_lines", [4, 40, 400, 4000])
def test_many_similar_steps_are_no_repetition(num_lines: int) -> None:
    steps = additions(num_lines, random.Random(num_lines))
    assert steps.splitlines()[0].count(",") == 2
    assert names(trace(thought(steps))) == []


@pytest.mark.parametrize(
    "steps",
    [
        "\n".join(f"Is {k} divisible by 7? No, {k} = 7*{k // 7} + {k % 7}." for k in range(300)),
        "\n".join(f"n={k}: {k} mod 3 = {k % 3}, {k} mod 5 = {k % 5}" for k in range(500)),
        "Let me check: 2+2=4, right.\n" * 3 + additions(20, random.Random(1)),
        "\n".join(f"{'-' * 80}\n{additions(4, random.Random(k))}" for k in range(9)),
        "| a | b |\n|---|---|\n" + "\n".join(f"| {k} | {k * k} |" for k in range(60)),
        "def f():\n    if a:\n        {\n        {\n        }\n        }\n    }\n}\n}\n}\n",
    ],
    ids=["sieve", "residues", "checked-thrice", "rules", "table", "braces"],
)
def test_sound_work_of_a_regular_kind_is_no_repetition(steps: str) -> None:
    assert names(trace(thought(steps))) == []


@pytest.mark.parametrize(
    ("steps", "evidence"),
    [
        (LOOP * 40, "spans that come"),
        (additions(100, random.Random(2)) + "\n" + LOOP * 30, "spans that come"),
        (additions(60, random.Random(3)) + "\nno\nyes" * 12, "times in a row: 'no / yes'"),
        ("0" * 5_000, "zlib makes"),
        ("1 2 3 4 5 6 7 8 9 " * 60, "spans that come"),
        ("我们再检查一遍答案是否正确。" * 60, "spans that come"),
    ],
    ids=["all-loop", "a-loop-at-the-end", "short-lines", "one-digit", "one-line", "chinese"],
)
def test_loops_are_repetition_with_evidence(steps: str, evidence: str) -> None:
    statement = "What is 17 plus 25? 我们" if "我" in steps else "What is 17 plus 25?"
    (found,) = tag(trace(thought(steps), statement=statement), DEFAULT)
    assert found.name == "repetition"
    assert evidence in found.evidence
    assert len(found.evidence) <= 160


def test_spans_count_what_comes_four_times_only() -> None:
    block = " ".join(f"w{k}" for k in range(40))
    for times, share in ((1, 0.0), (3, 0.0), (4, 3 / (160 - 39)), (5, 4 / (200 - 39))):
        spans = repeated_spans(" ".join([block] * times))
        # The spans that straddle two blocks repeat one time less, and count from five blocks on.
        straddling = 39 * (times - 2) if times >= 5 else 0
        assert spans.times == times
        assert spans.share == pytest.approx(
            share + straddling / (40 * times - 39) if share else 0.0
        )


@pytest.mark.parametrize(
    ("text", "times"),
    [("", 0), ("a", 1), ("a\nb\na\nb", 2), ("x\na\n a\na \n\nb", 3), ("a\nb\nc\na\nb", 1)],
)
def test_line_runs_are_counted(text: str, times: int) -> None:
    assert longest_line_run(text).times == times


def test_no_text_is_not_a_loop() -> None:
    assert compression_ratio("") == 1.0
    assert repeated_spans("").share == 0.0


@pytest.mark.parametrize(
    ("text", "statement", "tagged"),
    [
        ("We add 17 and 25, 首先计算个位, and get 42.", "What is 17 plus 25?", True),
        ("首先计算个位,然后计算十位,得到四十二。", "What is 17 plus 25?", True),
        ("首先计算个位,然后计算十位,得到四十二。", "十七加二十五等于多少?", False),
        ("We add 17 and 25 and get 42.", "$17+25$", False),
        ("We add 17 and 25, 首先计算个位, and get 42.", "$17+25$", True),
        ("So x² + y³ = ½, a₁ = 10⁻³, aᵢ = ① by the 5ᵗʰ rule in ℝ.", "Find x.", False),
        ("The angle π/4 and λ = 2, so 首 is fine.", "Translate 首先 and find λ.", False),
    ],
)
def test_scripts_that_the_problem_is_not_in_are_tagged(
    text: str, statement: str, tagged: bool
) -> None:
    found = tag(trace(thought(text).replace("So it is ", ""), statement=statement), DEFAULT)
    assert [each.name for each in found] == ["mixed_scripts"] * tagged
    if tagged:
        assert "首先计算个位" in found[0].evidence


def test_an_unlisted_tag_is_kept_but_does_not_exclude() -> None:
    settings = FilterSettings(exclude=(TagName.WRONG,))
    found = tag(trace(LOOP * 40, verdict=Verdict.CORRECT), settings)
    assert [each.name for each in found] == ["format", "repetition"]
    assert excluding(found, settings) is None


def test_settings_refuse_an_unknown_tag_and_an_unknown_key() -> None:
    with pytest.raises(ValidationError, match="repetition"):
        FilterSettings.model_validate({"exclude": ["repetitoin"]})
    with pytest.raises(ValidationError, match="extra"):
        FilterSettings.model_validate({"max_token": 4})


def test_the_waterfall_counts_every_trace_once_at_its_first_step() -> None:
    shapes = [
        trace(),
        trace(),
        trace(),
        trace(LOOP * 40, finish="length", verdict=None, source="tiny/gcd"),
        trace("It is 41.", verdict=Verdict.WRONG, source="tiny/gcd"),
        trace("It is 40.", verdict=Verdict.WRONG),
        trace("It is \\boxed{42}."),
        trace(verdict=Verdict.INFRA_ERROR),
    ]
    traces = [
        replace(each, key=f"{k:064x}", tags=tag(each, DEFAULT)) for k, each in enumerate(shapes)
    ]
    left = survivors(traces, DEFAULT)
    assert [each.key for each in left] == [each.key for each in traces[:3]]
    fall = waterfall(
        traces, DEFAULT,
        duplicates={traces[1].key: traces[0].key},
        contaminated={traces[2].key: "tiny, problem p9: 'what is'"},
    )  # fmt: skip
    assert [(step.stage, step.left, dict(step.removed)) for step in fall.steps] == [
        ("sample", 8, {}),
        ("answer", 8, {}),
        ("finish", 7, {"truncated": 1}),
        ("verify", 4, {"wrong": 2, "infra_error": 1}),
        ("filter", 3, {"format": 1}),
        ("dedup", 2, {"duplicate": 1}),
        ("decontaminate", 1, {"contaminated": 1}),
    ]
    assert next(iter(fall.counts)) == "wrong"
    assert fall.by_source["wrong"] == {"tiny/gcd": 1, "tiny/running_sum": 1}
    assert fall.by_source["truncated"] == {"tiny/gcd": 1}
    assert sum(fall.counts.values()) == 7
    assert set(fall.reasons) == {each.key for each in traces[1:]}
    assert fall.reasons[traces[2].key].evidence == "tiny, problem p9: 'what is'"


def test_every_tag_has_a_step() -> None:
    assert {step_of(name) for name in TagName} <= set(STEPS)

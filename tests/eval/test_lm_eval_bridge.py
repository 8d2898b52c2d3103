"""An engine as lm-eval's model: thinking, repeats, stop strings, resuming, and what is refused.

The task of these tests asks `say WORD`, wants the last line of the reply to be `5`, and stops at
"STOP"; the engine says what the word stands for.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from r1kit import KitError
from r1kit.eval import lm_eval_run
from r1kit.eval.lm_eval_run import LmEvalResult, Metric, TaskScore, run_lm_eval
from r1kit.eval.score import wilson
from r1kit.teacher.engine import Identity, Message, Request, Response, Sampling
from r1kit.teacher.ledger import Ledger

REPLIES = {
    "right": ("<think>\nhm\n</think>\n\n5", "stop"),
    "wrong": ("<think>\n5\n</think>\n\n6", "stop"),
    "endless": ("<think>\nIt is 5\n5", "length"),
    "unclosed": ("<think>\nIt is 5\n5", "stop"),
    "cut": ("<think>\nhm\n</think>\n\n5", "length"),
    "nothing": ("<think>\nhm\n</think>\n\n", "stop"),
    "stopped": ("<think>\nSTOP STOP\n</think>\n\n5STOP and 6", "stop"),
    "plain": ("5", "stop"),
    "fifth": ("<think></think>5", "stop"),
    "also": ("<think></think>5", "stop"),
}


class Scripted:
    """An engine that says what the prompt tells it to; `fails` counts down refusals by word.

    `fifth` is right in the fifth sample alone.
    """

    identity = Identity("scripted", "parrot")

    def __init__(self, **fails: int) -> None:
        self.fails = dict(fails)
        self.asked: list[Request] = []

    def answer(
        self, requests: Iterable[Request], *, before: Callable[[Request, str], None] | None = None
    ) -> Iterator[Response]:
        for request in requests:
            if before is not None:
                before(request, "here")
            self.asked.append(request)
            (word,) = re.findall(r"say (\w+)$", request.prompt.messages[-1].content)
            if self.fails.get(word, 0) > 0:
                self.fails[word] -= 1
                yield Response(request, "", "here", 0.1, error="it broke")
                continue
            text, finish = REPLIES[word]
            if word == "fifth" and request.index != 4:
                text = REPLIES["wrong"][0]
            body = {
                "choices": [{"message": {"content": text}, "finish_reason": finish}],
                "usage": {"prompt_tokens": 3, "completion_tokens": len(text)},
            }
            yield Response(request, json.dumps(body), "here", 0.1)

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...


class Stops(Exception):
    """What a killed run looks like from inside."""


class Killed(Scripted):
    """An engine that breaks off after so many answers."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def answer(self, *arguments: Any, **more: Any) -> Iterator[Response]:
        for count, response in enumerate(super().answer(*arguments, **more)):
            if count == self.after:
                raise Stops
            yield response


SCORING = """
def docs_results(doc, results):
    replies = results[0] if isinstance(results[0], list) else results
    return {"acc": sum(r.split("\\n")[-1] == doc["want"] for r in replies) / len(replies)}
"""

ALL_REPEATS = """
repeats: 2
filter_list:
  - name: all
    filter: [{function: take_first_k, k: 2}]
"""


@pytest.fixture(autouse=True)
def lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm-eval, with its data sets' cache in a folder of this test."""
    found = pytest.importorskip("lm_eval", reason="pip install 'r1kit[lm-eval]'")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return found


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a task `say` of some words; returns the folder for `include_path`."""

    def write(*words: str, more: str = "", settings: str = "until: [STOP]") -> Path:
        folder = tmp_path / "tasks"
        folder.mkdir(exist_ok=True)
        rows = "".join(json.dumps({"word": word, "want": "5"}) + "\n" for word in words)
        (folder / "rows.jsonl").write_text(rows)
        (folder / "scoring.py").write_text(SCORING)
        (folder / "say.yaml").write_text(
            f"""
task: say
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "say {{{{word}}}}"
doc_to_target: want
generation_kwargs: {{{settings}}}
process_results: !function scoring.docs_results
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 3}}
{more}
"""
        )
        return folder

    return write


def run(folder: Path, engine: Any, tasks: Path | None, *names: str, **more: Any) -> LmEvalResult:
    with Ledger.open(folder / "traces.sqlite") as ledger:
        return run_lm_eval(engine, ledger, names or ["say"], include_path=tasks, **more)


def value(score: TaskScore) -> float:
    return score.metrics[0].value


def test_only_the_reply_after_the_thinking_is_scored(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    score = run(tmp_path, Scripted(), make("right", "wrong")).score("say")
    assert (value(score), score.n) == (0.5, 2)


@pytest.mark.parametrize("word", ["endless", "unclosed", "cut"])
def test_a_thought_that_never_closes_and_a_reply_cut_off_are_wrong_and_counted(
    make: Callable[..., Path], tmp_path: Path, word: str
) -> None:
    result = run(tmp_path, Scripted(), make("right", word))
    score = result.score("say")
    assert value(score) == 0.5
    assert (score.truncated, score.no_answer, score.infra_errors) == (1, 0, 0)
    assert [sample.reply for sample in result.sampled] == ["5", ""]


def test_a_reply_that_says_nothing_is_wrong_and_counted(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    score = run(tmp_path, Scripted(), make("right", "nothing")).score("say")
    assert value(score) == 0.5
    assert (score.truncated, score.no_answer, score.infra_errors) == (0, 1, 0)


def test_stop_strings_cut_the_reply_and_never_the_thinking(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    result = run(tmp_path, Scripted(), make("stopped"))
    assert value(result.score("say")) == 1.0
    assert [sample.reply for sample in result.sampled] == ["5"]
    assert "say: replies cut at a stop string of the task (1)" in result.notices


def test_a_stop_string_of_one_line_break_leaves_the_first_line(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    result = run(tmp_path, Scripted(), make("right", settings=r'until: "\n"'))
    assert [sample.reply for sample in result.sampled] == ["5"]  # not the blank line in front


def test_repeats_are_samples_of_their_own(make: Callable[..., Path], tmp_path: Path) -> None:
    engine = Scripted()
    score = run(tmp_path, engine, make("right", "wrong", more=ALL_REPEATS)).score("say")
    assert score.samples == 2
    assert [(r.problem_id, r.index) for r in engine.asked] == [
        ("say/0", 0),
        ("say/0", 1),
        ("say/1", 0),
        ("say/1", 1),
    ]
    assert len({request.seed for request in engine.asked}) == 4
    assert len({request.key(engine.identity) for request in engine.asked}) == 4


def test_samples_replaces_the_tasks_own_number(make: Callable[..., Path], tmp_path: Path) -> None:
    engine = Scripted()
    score = run(tmp_path, engine, make("fifth", more=ALL_REPEATS), samples=5).score("say")
    assert (score.samples, len(engine.asked)) == (5, 5)
    assert value(score) == pytest.approx(1 / 5)


def test_a_task_that_scores_one_answer_refuses_more(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    assert run(tmp_path, Scripted(), make("right"), samples=1).score("say").samples == 1
    with pytest.raises(KitError, match="say: scores one answer per question, so 4 cannot be had"):
        run(tmp_path, Scripted(), make("right"), samples=4)


def test_a_second_run_asks_nothing_again_and_more_samples_only_the_new_ones(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    tasks = make("right", "wrong", more=ALL_REPEATS)
    first = run(tmp_path, Scripted(), tasks)
    again = Scripted()
    second = run(tmp_path, again, tasks)
    assert again.asked == []
    assert second.scores == first.scores
    more = Scripted()
    run(tmp_path, more, tasks, samples=3)
    assert [(r.problem_id, r.index) for r in more.asked] == [("say/0", 2), ("say/1", 2)]
    other = Scripted()
    run(tmp_path, other, tasks, seed=1)
    assert len(other.asked) == 4


def test_drawn_examples_are_drawn_alike_every_time(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["right", "wrong", "plain", "also", "cut"]
    tasks = make(*words, more="num_fewshot: 2\nfewshot_split: test")
    engine = Scripted()
    run(tmp_path, engine, tasks)
    assert {len(request.prompt.messages) for request in engine.asked} == {5}
    again = Scripted()
    run(tmp_path, again, tasks)
    assert again.asked == []


def test_a_killed_run_goes_on_where_it_stopped(make: Callable[..., Path], tmp_path: Path) -> None:
    tasks = make("right", "wrong", "also", more=ALL_REPEATS)
    with pytest.raises(Stops):
        run(tmp_path, Killed(after=4), tasks)
    engine = Scripted()
    score = run(tmp_path, engine, tasks).score("say")
    assert len(engine.asked) == 2
    assert value(score) == pytest.approx(2 / 3)


def test_a_question_that_the_engine_could_not_answer_is_left_out_and_asked_again(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    tasks = make("right", "wrong", "also", more=ALL_REPEATS)
    result = run(tmp_path, Scripted(also=1), tasks)
    score = result.score("say")
    assert (value(score), score.n) == (0.5, 2)  # of `right` and `wrong` alone
    assert (score.infra_errors, score.left_out) == (1, 1)
    assert not result.is_final
    engine = Scripted()
    result = run(tmp_path, engine, tasks)
    assert [request.problem_id for request in engine.asked] == ["say/2"]
    assert value(result.score("say")) == pytest.approx(2 / 3)
    assert result.is_final


@pytest.mark.parametrize(("failing", "is_final"), [(1, True), (2, False)])
def test_a_score_is_final_with_at_most_one_failure_in_a_hundred(
    make: Callable[..., Path], tmp_path: Path, failing: int, is_final: bool
) -> None:
    tasks = make(*["right"] * 98, "wrong", "also")
    result = run(tmp_path, Scripted(right=failing), tasks)
    score = result.score("say")
    assert (score.infra_errors, score.left_out, result.is_final) == (failing, failing, is_final)
    assert value(score) == pytest.approx((99 - failing) / (100 - failing))


def test_a_run_without_any_answer_has_no_score(make: Callable[..., Path], tmp_path: Path) -> None:
    result = run(tmp_path, Scripted(right=1), make("right"))
    score = result.score("say")
    assert (score.metrics, score.n, result.is_final) == ((), 0, False)


def test_the_standard_error_is_over_questions_not_samples(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    tasks = make("right", "right", "right", "wrong", more=ALL_REPEATS)
    (metric,) = run(tmp_path, Scripted(), tasks, samples=50).score("say").metrics
    assert metric.value == 0.75
    assert metric.se == pytest.approx((0.75 / 3 / 4) ** 0.5)  # of 1, 1, 1, 0, whatever was sampled


def test_r1s_sampling_replaces_the_tasks_own_and_that_is_said(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    settings = "until: [], do_sample: false, temperature: 0, max_gen_toks: 99, top_k: 4"
    tasks = make("right", settings=settings)
    engine = Scripted()
    result = run(tmp_path, engine, tasks)
    assert engine.asked[0].sampling == Sampling(0.6, 0.95, 32_768)
    assert (
        "say: asked with temperature 0.6, top-p 0.95, 32,768 tokens; the task says greedy "
        "decoding, 99 tokens"
    ) in result.notices
    assert "say: settings not passed on: top_k" in result.notices
    engine = Scripted()
    result = run(tmp_path, engine, tasks, sampling=None)
    assert engine.asked[0].sampling == Sampling(0.0, 1.0, 99)
    assert not any("asked with" in notice for notice in result.notices)


@pytest.mark.parametrize(
    ("settings", "sampling"),
    [
        ("until: []", Sampling(0.0, 1.0, 256)),
        ("until: [], temperature: 0.7", Sampling(0.7, 1.0, 256)),
        ("until: [], do_sample: true, temperature: 1.0, top_p: 0.9", Sampling(1.0, 0.9, 256)),
        ("until: [], do_sample: false, temperature: 0.7", Sampling(0.0, 1.0, 256)),
        ("until: [], max_tokens: 7", Sampling(0.0, 1.0, 7)),
    ],
)
def test_a_tasks_own_settings_mean_what_they_mean_in_lm_eval(
    make: Callable[..., Path], tmp_path: Path, settings: str, sampling: Sampling
) -> None:
    engine = Scripted()
    run(tmp_path, engine, make("right", settings=settings), sampling=None)
    assert engine.asked[0].sampling == sampling


def test_prompts_are_turns_of_the_user_that_force_thinking(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    tasks = make("right", "wrong", more="description: 'Be brief.'\nnum_fewshot: 1\nfewshot_config: "
                 "{sampler: first_n}\nfewshot_split: test")  # fmt: skip
    engine = Scripted()
    result = run(tmp_path, engine, tasks)
    prompt = engine.asked[-1].prompt
    assert prompt.messages == (
        Message("user", "Be brief.\n\nsay right"),
        Message("assistant", "5"),
        Message("user", "say wrong"),
    )
    assert prompt.prefill == "<think>\n"
    assert "say: system prompts put in front of the user's turn (2)" in result.notices
    assert result.score("say").num_fewshot == 1


def test_without_thinking_a_task_may_open_the_reply(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    tasks = make("plain", more="gen_prefix: 'It is'")
    engine = Scripted()
    result = run(tmp_path, engine, tasks, thinking=False)
    assert engine.asked[0].prompt.prefill == "<think>\n\n</think>\n\nIt is"
    assert [sample.reply for sample in result.sampled] == ["5"]
    engine = Scripted()
    result = run(tmp_path, engine, tasks)
    assert engine.asked[0].prompt.prefill == "<think>\n"
    assert any("openings 'It is' left out" in notice for notice in result.notices)


def test_metrics_that_like_silence_are_not_to_be_quoted(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    tasks = make("cut", "wrong")
    (tasks / "scoring.py").write_text(
        "def docs_results(doc, results):\n    return {'acc': float('6' not in results[0])}\n"
    )
    result = run(tmp_path, Scripted(), tasks)
    assert any(
        notice.startswith("say: its metrics find something right in 1 questions whose replies are")
        for notice in result.notices
    )


LIKELIHOOD = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "What is {{{{word}}}}? Answer:"
doc_to_choice: ["a", "bb", "ccc"]
doc_to_target: 1
"""


def test_log_likelihoods_are_refused_where_the_engine_has_none(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    tasks = make("right")
    text = LIKELIHOOD.format(name="ceval-valid_law", rows=tasks / "rows.jsonl")
    (tasks / "choice.yaml").write_text(text)
    engine = Scripted()
    with pytest.raises(KitError) as caught:
        run(tmp_path, engine, tasks, "ceval-valid_law")
    assert str(caught.value) == (
        "ceval-valid_law: compares log-likelihoods of given texts, which the engine 'scripted' "
        "does not tell; use r1_ceval, or --engine torch with the model's weights"
    )
    assert engine.asked == []


def test_the_torch_engine_compares_choices_by_their_likelihood(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    from r1kit.teacher.tiny import TINY_R1, model_path
    from r1kit.teacher.torch_engine import TorchEngine

    directory = model_path(TINY_R1)
    assert directory is not None
    tasks = make("right", "wrong", "plain")
    (tasks / "choice.yaml").write_text(LIKELIHOOD.format(name="choose", rows=tasks / "rows.jsonl"))
    with TorchEngine(directory, batch_size=4) as engine:
        result = run(tmp_path, engine, tasks, "choose")
        likelihood = engine.likelihood()
        wanted = []
        for word in ("right", "wrong", "plain"):
            scores = [
                likelihood.continuation(f"What is {word}? Answer:", f" {choice}").log_probability
                for choice in ("a", "bb", "ccc")
            ]
            wanted.append(float(scores.index(max(scores)) == 1))
    assert value(result.score("choose")) == pytest.approx(sum(wanted) / 3)
    with pytest.raises(KitError, match="say let the model write and the others compare"):
        run(tmp_path, engine, tasks, "choose", "say")


GROUP = """
group: both
task: [say, tell]
aggregate_metric_list: [{metric: acc, aggregation: mean, weight_by_size: true}]
metadata: {version: 7}
"""


def test_a_group_is_scored_as_a_whole_and_takes_no_local_files(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    tasks = make("right", "wrong", "cut")
    (tasks / "more.jsonl").write_text('{"word": "right", "want": "5"}\n')
    text = (tasks / "say.yaml").read_text()
    (tasks / "tell.yaml").write_text(
        text.replace("task: say", "task: tell").replace("rows.jsonl", "more.jsonl")
    )
    (tasks / "both.yaml").write_text(GROUP)
    result = run(tmp_path, Scripted(), tasks, "both")
    assert [score.task for score in result.scores] == ["say", "tell", "both"]
    whole = result.score("both")
    assert (value(whole), whole.n, whole.truncated, whole.is_group) == (0.5, 4, 1, True)
    with pytest.raises(KitError, match="both: --data-dir is for single tasks"):
        run(tmp_path, Scripted(), tasks, "both", data_dir=tmp_path)


def test_an_unknown_task_is_named_with_a_near_one(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval import tasks as module

    class Quick(module.TaskManager):  # type: ignore[misc]  # lm-eval carries no types
        """Leaves out lm-eval's own tasks, which take it seconds to find."""

        def __init__(self, **more: Any) -> None:
            super().__init__(**{**more, "include_defaults": False})

    monkeypatch.setattr(module, "TaskManager", Quick)
    with pytest.raises(KitError, match=r"r1_mmul: no task of lm-eval .* did you mean 'r1_mmlu'"):
        run(tmp_path, Scripted(), None, "r1_mmul")


def test_without_the_extra_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_eval_run, "find_spec", lambda name: None)
    with pytest.raises(KitError, match=r"pip install 'r1kit\[lm-eval\]'"):
        run(tmp_path, Scripted(), None)


@pytest.fixture
def command(make: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the suite and print it; returns what scores.json holds."""
    from r1kit.eval.job import Job
    from r1kit.eval.lm_eval_suite import LmEvalSuite
    from r1kit.eval.results import show
    from r1kit.teacher.engine import Sampling
    from r1kit.teacher.settings import EngineSettings

    def call(engine: Scripted, *words: str) -> dict[str, Any]:
        job = Job(EngineSettings(model="parrot"), Sampling())
        include_path = make(*words, more=ALL_REPEATS)
        made = LmEvalSuite("lm_eval:say", job, include_path).run(engine, tmp_path)
        show([made], as_json=False)
        if made.not_final:
            raise KitError(made.not_final)
        found: dict[str, Any] = json.loads((tmp_path / "scores.json").read_text())
        return found

    return call


def test_the_command_prints_its_table_and_writes_scores_and_answers(
    command: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = command(Scripted(), "right", "wrong", "cut", "right")
    lines = [
        re.split(r"\s*[│┃]\s*", line.strip("│┃ ")) for line in capsys.readouterr().out.splitlines()
    ]
    assert ["say", "acc", "4", "2", "50.0 %", "0.0 to 100.0"] in lines
    assert ["say: 2 truncated, 0 without an answer, 0 infrastructure errors"] in lines
    assert facts["suite"] == "lm_eval:say"
    assert facts["model"] == "parrot"
    score = facts["score"]
    assert (score["metric"], score["value"], score["n"], score["samples"]) == ("acc", 0.5, 4, 2)
    assert score["truncated"] == 2
    assert facts["provenance"]["sampling"]["max_tokens"] == 32_768
    assert facts["tasks"]["say"]["version"] == "3"
    assert len(facts["tasks"]["say"]["sha256"]) == 64
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_bytes().splitlines()]
    assert [(a["id"], a["sample"], a["verdict"], a["finish"], a["extracted"]) for a in answers] == [
        ("say/0", 0, "correct", "stop", "5"),
        ("say/0", 1, "correct", "stop", "5"),
        ("say/1", 0, "wrong", "stop", "6"),
        ("say/1", 1, "wrong", "stop", "6"),
        ("say/2", 0, "wrong", "length", ""),
        ("say/2", 1, "wrong", "length", ""),
        ("say/3", 0, "correct", "stop", "5"),
        ("say/3", 1, "correct", "stop", "5"),
    ]
    assert {(a["suite"], a["source"], a["gold"]) for a in answers} == {("lm_eval:say", "say", "5")}


def test_a_score_that_is_not_final_is_not_printed(
    command: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KitError, match=r"1 of 4 samples got no usable answer .*it broke"):
        command(Scripted(right=1), "right", "wrong")
    printed = capsys.readouterr().out
    assert "not final" in printed
    assert "0.0 %" not in printed  # of the question that was answered
    lines = (tmp_path / "answers.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["verdict"] for line in lines] == [
        "infra_error",
        "correct",
        "wrong",
        "wrong",
    ]
    assert json.loads((tmp_path / "scores.json").read_text())["is_final"] is False


def test_several_ways_to_read_a_reply_are_told_apart(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from r1kit.eval.lm_eval_report import print_table
    from rich.console import Console

    more = """
filter_list:
  - {name: strict, filter: [{function: take_first}]}
  - {name: loose, filter: [{function: take_first}]}
"""
    print_table(Console(), run(tmp_path, Scripted(), make("right", more=more)), "t")
    printed = capsys.readouterr().out
    assert "acc (strict)" in printed
    assert "acc (loose)" in printed


def test_all_alike_is_not_certain() -> None:
    from r1kit.eval.lm_eval_report import interval_of

    assert interval_of(Metric("acc", "all", 1.0, 0.0), 10) == wilson(1.0, 10)
    assert interval_of(Metric("acc", "all", 0.5, 0.1), 10) == pytest.approx(
        (0.304, 0.696), abs=1e-3
    )
    assert interval_of(Metric("word_perplexity", "none", 40.0, None), 10) is None

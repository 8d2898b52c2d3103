"""R1's rows that lm-eval runs: a right reply scores 1, a wrong one 0, and the prompt is R1's.

Each task is loaded by lm-eval from a few local rows with the columns that its data set has on the
Hub, and answered by an engine that finds its reply by a word of the question.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import pytest
from r1kit import KitError
from r1kit.eval.lm_eval_run import LmEvalResult, lm_eval_suite_names, run_lm_eval
from r1kit.eval.lm_eval_tasks import ifeval
from r1kit.eval.lm_eval_tasks.choices import find_letter, gpqa_docs
from r1kit.eval.lm_eval_tasks.drop import find_answer
from r1kit.teacher.engine import Identity, Message, Request, Response, Sampling
from r1kit.teacher.ledger import Ledger

RIGHT, WRONG = "rightly", "wrongly"


CUT = "cut off: "
"""A reply that begins with this was cut off at the token limit."""


class ByWord:
    """An engine that replies what stands for a word in the prompt."""

    identity = Identity("by-word", "parrot")

    def __init__(self, replies: dict[str, str]) -> None:
        self.replies = replies
        self.asked: list[Request] = []

    def answer(
        self, requests: Iterable[Request], *, before: Callable[[Request, str], None] | None = None
    ) -> Iterator[Response]:
        for request in requests:
            self.asked.append(request)
            said = request.prompt.messages[-1].content
            (reply,) = [reply for word, reply in self.replies.items() if word in said]
            body = {
                "choices": [
                    {
                        "message": {"content": f"<think>\nAnswer: Z</think>{reply}"},
                        "finish_reason": "length" if reply.startswith(CUT) else "stop",
                    }
                ]
            }
            yield Response(request, json.dumps(body), "here", 0.1)

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None: ...


@dataclass(frozen=True)
class Case:
    """A task, its rows by split, and replies of which one is right and one wrong."""

    task: str
    rows: dict[str, list[dict[str, Any]]]
    right: str
    wrong: str
    prompt: str
    """What the model has to see for the first row, to the letter."""
    metrics: tuple[str, ...] = ("acc",)


SIMPLE_EVALS = (
    "Answer the following multiple choice question. The last line of your response should be of "
    "the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of ABCD. Think "
    "step by step before answering.\n\n"
)

CASES = [
    Case(
        "r1_mmlu",
        {
            "test": [
                {
                    "question": f"Is {word} {{tricky}}?",
                    "subject": "anatomy",
                    "choices": ["yes", "no", "{{ both }}", "neither"],
                    "answer": 2,
                }
                for word in (RIGHT, WRONG)
            ]
        },
        "Both.\n\nAnswer: C",
        "Neither.\n\nAnswer: D",
        SIMPLE_EVALS + "Is rightly {tricky}?\n\nA) yes\nB) no\nC) {{ both }}\nD) neither",
    ),
    Case(
        "r1_mmlu_redux",
        {
            "test": [
                {
                    "id": f"mmlu-redux-anatomy-#{word}",
                    "question": f"Which {word}?",
                    "choices": ["a", "b", "c", "d"],
                    "correct_answer": "b",
                    "source": "edinburgh-dawg/mmlu-redux",
                    "config": "anatomy",
                    "task_type": "multiple_choice",
                }
                for word in (RIGHT, WRONG)
            ]
        },
        '```json\n{\n    "reasoning": "The answer is A, perhaps.",\n    "answer": "B"\n}\n```',
        '```json\n{\n    "reasoning": "The answer is B, perhaps.",\n    "answer": "A"\n}\n```',
        "## Question:\n\nWhich rightly?\n\n## Choices:\n\n- (A) a\n- (B) b\n- (C) c\n- (D) d\n\n\n"
        "## Instruction\n\nPlease answer this question by first reasoning and then selecting the "
        "correct choice.\nPresent your reasoning and solution in the following json format.\n"
        "Please show your choice in the `answer` field with only the choice letter, "
        'e.g.,`"answer": "C"`.\n\n```json\n{\n    "reasoning": "___",\n    "answer": "___"\n}\n```',
    ),
    Case(
        "r1_mmlu_pro",
        {
            "test": [
                {
                    "question_id": number,
                    "question": f"Which {word}?",
                    "options": [*"abcdefgh", "N/A", "ten"],
                    "answer": "H",
                    "answer_index": 7,
                    "cot_content": "",
                    "category": "law",
                    "src": "x",
                }
                for number, word in enumerate((RIGHT, WRONG))
            ]
        },
        "So the answer is (H).",
        "So the answer is (G).",
        "The following are multiple choice questions (with answers) about law. Think step by step "
        'and then finish your answer with "the answer is (X)" where X is the correct letter '
        "choice.\n\n\n\nQuestion:\nWhich rightly?\nOptions:\nA. a\nB. b\nC. c\nD. d\nE. e\nF. f\n"
        "G. g\nH. h\nI. ten\nAnswer: Let's think step by step.",
    ),
    Case(
        "r1_gpqa_diamond",
        {
            "train": [
                {
                    "Question": f"Which {word}?",
                    "Correct Answer": "right one",
                    "Incorrect Answer 1": "first",
                    "Incorrect Answer 2": "second",
                    "Incorrect Answer 3": "third",
                }
                for word in (RIGHT, WRONG)
            ]
        },
        "I choose $\\boxed{\\text{C}}$",
        "I choose $\\boxed{\\text{A}}$",
        SIMPLE_EVALS + "Which rightly?\n\nA) third\nB) first\nC) right one\nD) second",
    ),
    Case(
        "r1_ceval",
        {
            "val": [
                {
                    "id": number,
                    "question": f"{word}____",
                    "A": "甲",
                    "B": "乙",
                    "C": "丙",
                    "D": "丁",
                    "answer": "D",
                    "explanation": "",
                    "subject": "computer_network",
                }
                for number, word in enumerate((RIGHT, WRONG))
            ]
        },
        "所以答案是D。",
        "所以答案是A。",
        "以下是中国关于计算机网络考试的单项选择题，请选出其中的正确答案。\n\nrightly____\nA. 甲\n"
        "B. 乙\nC. 丙\nD. 丁\n\n让我们一步一步思考，并在最后一行以“答案是X。”的形式给出答案，"
        "其中X是A、B、C、D之一。",
    ),
    Case(
        "r1_drop",
        {
            "train": [
                {"context": f"Passage: {n}\nAnswer:", "completion": f"{n}!", "ref_text": str(n)}
                for n in range(3)
            ],
            "test": [
                {
                    "context": f"Passage: a {word} told tale\nQuestion: who?\nAnswer:",
                    "completion": "",
                    "ref_text": "the two dogs|dogs",
                }
                for word in (RIGHT, WRONG)
            ],
        },
        "They are.\n\n**Answer:** Two dogs",
        "They are.\n\nAnswer: cats",
        "You will be asked to read a passage and answer a question. Some examples of passages and "
        "Q&A are provided below.\n\n# Examples\n---\nPassage: 2\nAnswer: 2!\n\n---\nPassage: 0\n"
        "Answer: 0!\n\n---\nPassage: 1\nAnswer: 1!\n\n# Your Task\n\n---\nPassage: a rightly told "
        "tale\nQuestion: who?\nAnswer: \n\nThink step by step, then write a line of the form "
        '"Answer: $ANSWER" at the end of your response.',
        metrics=("f1", "em"),
    ),
    Case(
        "r1_ifeval",
        {
            "train": [
                {
                    "key": number,
                    "prompt": f"Write {word} without commas, in two paragraphs.",
                    "instruction_id_list": [
                        "punctuation:no_comma",
                        "length_constraints:number_words",
                    ],
                    "kwargs": [
                        {"relation": None, "num_words": None},
                        {"relation": "at least", "num_words": 3},
                    ],
                }
                for number, word in enumerate((RIGHT, WRONG))
            ]
        },
        "Three words here.",
        "Three words, or more.",
        "Write rightly without commas, in two paragraphs.",
        metrics=("prompt_strict", "prompt_loose"),
    ),
]


@pytest.fixture(autouse=True)
def lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """lm-eval, with its data sets' cache and nltk's data in a folder of this test."""
    found = pytest.importorskip("lm_eval", reason="pip install 'r1kit[lm-eval]'")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return found


@pytest.fixture
def checkers(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What IFEval's checkers need, for IFEval alone.

    The data for counting sentences lie there, empty: no test counts any.
    """
    call = getattr(request.node, "callspec", None)
    if call is not None and call.params["case"].task != "r1_ifeval":
        return
    for name in ("langdetect", "immutabledict"):
        pytest.importorskip(name, reason="pip install 'r1kit[lm-eval]'")
    nltk = pytest.importorskip("nltk")
    (tmp_path / "nltk/tokenizers/punkt_tab").mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])


def put(folder: Path, case: Case) -> Path:
    """Write a case's rows where `--data-dir` looks for them."""
    folder.mkdir(exist_ok=True)
    for split, rows in case.rows.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{case.task}.{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def run(folder: Path, case: Case, engine: ByWord, **more: Any) -> LmEvalResult:
    data = put(folder / "data", case)
    with Ledger.open(folder / "traces.sqlite") as ledger:
        return run_lm_eval(engine, ledger, [case.task], data_dir=data, **more)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_a_right_reply_scores_one_and_a_wrong_one_nothing(
    case: Case, tmp_path: Path, checkers: None
) -> None:
    for reply, value in ((case.right, 1.0), (case.wrong, 0.0)):
        folder = tmp_path / f"{value:g}"
        folder.mkdir()
        score = run(folder, case, ByWord({RIGHT: reply}), limit=1).score(case.task)
        assert {metric.name: metric.value for metric in score.metrics} == dict.fromkeys(
            case.metrics, value
        )
        assert score.n == 1
        assert (score.truncated, score.no_answer, score.infra_errors) == (0, 0, 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_the_prompt_is_the_published_one(case: Case, tmp_path: Path, checkers: None) -> None:
    engine = ByWord({RIGHT: case.right})
    run(tmp_path, case, engine, limit=1, samples=1)
    (request,) = engine.asked
    (turn,) = request.prompt.messages
    assert turn == Message("user", case.prompt)
    assert request.prompt.prefill == "<think>\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_a_task_asks_for_what_r1_was_sampled_with(
    case: Case, tmp_path: Path, checkers: None
) -> None:
    engine = ByWord({RIGHT: case.right})
    score = run(tmp_path, case, engine, limit=1, sampling=None).score(case.task)
    assert {request.sampling for request in engine.asked} == {Sampling(0.6, 0.95, 32_768)}
    assert len(engine.asked) == score.samples
    assert [request.index for request in engine.asked] == list(range(score.samples))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_every_sample_counts(case: Case, tmp_path: Path, checkers: None) -> None:
    replies = {RIGHT: case.right, WRONG: "\u200b"}  # says nothing that could be read
    score = run(tmp_path, case, ByWord(replies), samples=3).score(case.task)
    assert (score.n, score.samples) == (2, 3)
    assert score.metrics[0].value == 0.5
    assert score.metrics[0].se == pytest.approx(0.5)  # the standard error of 1 and 0
    if case.metrics == ("acc",):
        assert score.no_answer == 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_no_task_finds_anything_in_an_empty_reply(
    case: Case, tmp_path: Path, checkers: None
) -> None:
    result = run(tmp_path, case, ByWord({RIGHT: "", WRONG: " \n"}), samples=2)
    score = result.score(case.task)
    assert [metric.value for metric in score.metrics] == [0.0] * len(case.metrics)
    assert score.no_answer == 4
    assert not any("do not quote" in notice for notice in result.notices)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.task)
def test_a_reply_cut_off_is_truncated_and_nothing_else(
    case: Case, tmp_path: Path, checkers: None
) -> None:
    replies = {RIGHT: case.right, WRONG: CUT + case.right}
    score = run(tmp_path, case, ByWord(replies), samples=2).score(case.task)
    assert score.metrics[0].value == 0.5
    assert (score.truncated, score.no_answer) == (2, 0)


def test_every_suite_has_a_case() -> None:
    assert lm_eval_suite_names() == sorted(f"lm_eval:{case.task}" for case in CASES)


def test_missing_files_are_named_with_what_they_should_be_called(tmp_path: Path) -> None:
    case = CASES[0]
    with (
        Ledger.open(tmp_path / "traces.sqlite") as ledger,
        pytest.raises(
            KitError, match=r"--data-dir .*nowhere: r1_mmlu needs .*r1_mmlu\.test\.jsonl"
        ),
    ):
        run_lm_eval(ByWord({}), ledger, [case.task], data_dir=tmp_path / "nowhere")


def test_rows_without_the_columns_of_the_data_set_are_refused(tmp_path: Path) -> None:
    case = replace(CASES[0], rows={"test": [{"question": RIGHT, "options": ["a"]}]})
    with pytest.raises(KitError, match=r"r1_mmlu: cannot be loaded .*choices"):
        run(tmp_path, case, ByWord({}))


def test_a_subject_that_is_none_of_ceval_is_named(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.task == "r1_ceval")
    rows = [{**row, "subject": "alchemy"} for row in case.rows["val"]]
    with pytest.raises(KitError, match="subject 'alchemy' is none of C-Eval's 52"):
        run(tmp_path, replace(case, rows={"val": rows}), ByWord({}))


def test_what_ifeval_lacks_is_said_before_anything_is_asked(
    tmp_path: Path, checkers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    case = next(case for case in CASES if case.task == "r1_ifeval")
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "empty")])
    engine = ByWord({RIGHT: "x"})
    with pytest.raises(KitError, match=r"python -m nltk\.downloader punkt_tab"):
        run(tmp_path, case, engine)
    monkeypatch.setattr(ifeval, "NEEDS", ("nltk", "no_such_package"))
    with pytest.raises(KitError, match=r"need no_such_package: pip install 'lm-eval\[ifeval\]'"):
        run(tmp_path, case, engine)
    assert engine.asked == []


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("Answer: B", "B"),
        ("**Answer:** B", "B"),
        ("Answer: $B$", "B"),
        ("Answer: \\boxed{B}", "B"),
        ("the answer is (B).", "B"),
        ("The answer is A because it is.", "A"),
        ("The answer is A matter of taste.", ""),
        ("\\boxed{\\text{(B) ribosome}}", "B"),
        ("$\\boxed{\\textbf{B}}$", "B"),
        ('"answer": "B"', "B"),
        ("因此，正确答案是：**B**", "B"),
        ("故选B", "B"),
        ("B", "B"),
        ("**B) ribosome**", "B"),
        ("Answer: C, no.\n\nAnswer: B", "B"),
        ("Answer: C\n\\boxed{B}", "B"),
        ("\\boxed{C}\nAnswer: B", "B"),
        ("\\boxed{42}", ""),
        ("Answer: E", ""),
        ("Because B is likely.", ""),
        ("", ""),
    ],
)
def test_the_letter_stated_last_is_the_choice(reply: str, letter: str) -> None:
    assert find_letter(reply, "ABCD") == letter


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Answer: 3", "3"),
        ("Answer: 3\n\n**Answer: 4 yards**", "4 yards"),
        ("Answer: $\\boxed{4\\text{ yards}}$", "4 yards"),
        ("So it is \\boxed{12}.", "12"),
        ("Tom Brady", "Tom Brady"),
    ],
)
def test_drops_answer_is_the_last_one_stated(reply: str, answer: str) -> None:
    assert find_answer(reply) == answer


def test_gpqa_shows_the_orders_that_simple_evals_draws() -> None:
    import random

    import datasets

    case = next(case for case in CASES if case.task == "r1_gpqa_diamond")
    rows = gpqa_docs(datasets.Dataset.from_list(case.rows["train"] * 4))
    drawn = random.Random(0)  # gpqa_eval.py: rng.sample(range(4), 4) for one row after the other
    names = ["right one", "first", "second", "third"]
    assert [row["choices"] for row in rows] == [
        [names[at] for at in drawn.sample(range(4), 4)] for _ in range(8)
    ]
    assert all(row["choices"]["ABCD".index(row["letter"])] == "right one" for row in rows)

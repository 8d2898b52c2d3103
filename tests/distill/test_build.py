"""Build: what the data set holds, that `datasets` loads it, that it appears whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from r1kit.distill import build as build_module
from r1kit.distill.build import SCHEMA, BuildError, BuildResult, build
from r1kit.distill.card import COLUMNS, size_category
from r1kit.distill.facts import CardFacts, FunnelStep
from r1kit.distill.trace import Tag, Trace
from r1kit.eval.math.extract import Rule
from r1kit.eval.math.verify import Judgement
from r1kit.eval.problems import Problem
from r1kit.eval.verdict import Verdict
from r1kit.teacher.engine import Completion, Finish, Identity, Message, Prompt

REPLY = "<think>\n1+1=2\n</think>\nIt is \\boxed{2}."
IDENTITY = Identity("openai", "deepseek-r1", "0528")


def card(**changes: Any) -> CardFacts:
    values: dict[str, Any] = {
        "name": "trial",
        "teacher": "openai deepseek-r1",
        "settings": {"name": "trial", "prompt": {"template": "```\n{statement}\n---\n"}},
        "funnel": (FunnelStep("sample", 9), FunnelStep("verify", 4, {"wrong": 5})),
        "sources": {"tiny/sum": 7, "a|b": 2},
        "version": "0.1.0",
    }
    return CardFacts(**(values | changes))


def trace(number: int, reply: str = REPLY, answer: str | None = "2", **problem: str) -> Trace:
    values = {"id": f"p{number}", "statement": f"{number}+1 = ?", "source": "tiny/sum"} | problem
    return Trace(
        Problem(answer=answer, **values),
        f"{number:064x}",
        number % 3,
        Completion(reply, "1+1=2", "It is \\boxed{2}.", Finish.STOP, 12, 20 + number),
        Judgement(Verdict.CORRECT, "2", Rule.BOXED, "the same"),
        (Tag("too_long", "x"),) if number == 1 else (),
    )


def prompt(problem: Problem) -> Prompt:
    return Prompt((Message("system", "Be brief."), Message("user", f"Q: {problem.statement}")))


def make(out_dir: Path, kept: list[Trace], **options: Any) -> BuildResult:
    values: dict[str, Any] = {"card": card(), "identity": IDENTITY, "prompt": prompt}
    return build(kept, out_dir, **(values | options))


def test_a_row_holds_the_turns_the_whole_reply_and_where_it_comes_from(tmp_path: Path) -> None:
    result = make(tmp_path / "dataset", [trace(0), trace(1, level="hard", answer=None)])
    first, second = pq.read_table(result.path).to_pylist()
    assert first == {
        "id": "p0#0",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Q: 0+1 = ?"},
            {"role": "assistant", "content": REPLY},
        ],
        "problem_id": "p0",
        "source": "tiny/sum",
        "level": "",
        "answer": "2",
        "key": "0" * 64,
        "engine": "openai",
        "model": "deepseek-r1@0528",
        "prompt_tokens": 12,
        "completion_tokens": 20,
        "verdict": "correct",
        "tags": [],
    }
    assert (second["level"], second["answer"], second["tags"]) == ("hard", None, ["too_long"])
    assert (result.rows, result.size_bytes) == (2, result.path.stat().st_size)


def test_datasets_loads_the_folder_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    result = make(tmp_path / "dataset", [trace(k) for k in range(2_500)])
    cache = str(tmp_path / "cache")
    folder = datasets.load_dataset(str(tmp_path / "dataset"), split="train", cache_dir=cache)
    file = datasets.load_dataset(
        "parquet", data_files=str(result.path), split="train", cache_dir=cache
    )
    for loaded in (folder, file):
        assert loaded.column_names == SCHEMA.names
        assert loaded.num_rows == 2_500
        assert loaded[1234]["messages"][-1] == {"role": "assistant", "content": REPLY}
        assert loaded[2_499]["key"] == f"{2_499:064x}"


def test_the_same_traces_give_the_same_bytes(tmp_path: Path) -> None:
    kept = [trace(k) for k in range(1_200)]
    found = []
    for name in ("one", "two", "two"):
        make(tmp_path / name, kept)
        files = sorted((tmp_path / name).iterdir())
        assert [file.name for file in files] == ["README.md", "train.parquet"]
        found.append([file.read_bytes() for file in files])
    assert found[0] == found[1] == found[2]
    assert not [path for path in tmp_path.iterdir() if path.name not in ("one", "two")]


def test_a_crash_leaves_what_was_there_and_the_next_build_clears_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dataset"
    make(out, [trace(0)])
    before = (out / "train.parquet").read_bytes()

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(build_module, "_sync", full)
        with pytest.raises(OSError, match="No space left"):
            make(out, [trace(1)])
    assert (out / "train.parquet").read_bytes() == before
    assert (tmp_path / "dataset.partial").exists()
    make(out, [trace(1)])
    assert pq.read_table(out / "train.parquet")["id"].to_pylist() == ["p1#1"]
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_a_crash_between_the_renames_leaves_no_half_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dataset"
    make(out, [trace(0)])
    rename = Path.rename

    def stop(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as broken:
        broken.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            make(out, [trace(1)])
    assert not out.exists()
    make(out, [trace(2)])
    assert pq.read_table(out / "train.parquet")["id"].to_pylist() == ["p2#2"]
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        ([], "no trace was kept"),
        ([trace(3), trace(3)], "two traces are called p3#0"),
        ([trace(3, " \n")], "p3#0: the reply is empty"),
    ],
)
def test_what_no_student_can_learn_is_refused_before_anything_is_written(
    tmp_path: Path, kept: list[Trace], says: str
) -> None:
    with pytest.raises(BuildError, match=says):
        make(tmp_path / "dataset", kept)
    assert list(tmp_path.iterdir()) == []


def read_card(folder: Path) -> tuple[Mapping[str, Any], str]:
    """The header and the body of a card."""
    _, header, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_card_states_licence_size_columns_sources_funnel_and_settings(tmp_path: Path) -> None:
    make(tmp_path / "dataset", [trace(k) for k in range(4)], license="apache-2.0")
    header, body = read_card(tmp_path / "dataset")
    assert header["license"] == "apache-2.0"
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "train.parquet"}]
    assert "4 chains of thought for 4 problems" in body
    assert "| tiny/sum | 7 | 4 | 4 | 21 |" in body  # the lower median of 20, 21, 22, 23
    assert "| a\\|b | 2 | 0 | 0 | none |" in body
    assert "| verify | 4 | wrong 5 |" in body
    assert "| sample | 9 | nothing |" in body
    assert "    name: trial\n" in body
    for column in SCHEMA.names:
        assert f"| `{column}` |" in body


def test_settings_cannot_break_out_of_the_cards_code_block(tmp_path: Path) -> None:
    make(tmp_path / "dataset", [trace(0)], card=card(name="x\n---\nlicense: mit"))
    header, body = read_card(tmp_path / "dataset")
    assert header["license"] == "other"
    settings = body.split("The recipe, as it ran:\n")[1]
    assert all(line.startswith("    ") for line in settings.splitlines() if line)
    assert header["pretty_name"] == "x --- license: mit"


def test_every_column_is_explained_and_rows_are_sized_the_hubs_way() -> None:
    assert list(COLUMNS) == SCHEMA.names
    assert [size_category(n) for n in (999, 1_000, 800_000, 10**7)] == [
        "n<1K", "1K<n<10K", "100K<n<1M", "n>10M",
    ]  # fmt: skip

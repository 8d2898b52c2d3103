"""Named suites: found by path or hub id, and held against their known count and digest."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from r1kit.eval.math.policy import MathPolicy
from r1kit.eval.problems import Problem, ProblemsError
from r1kit.eval.suites import load_suite, open_suite, suite_names
from r1kit.eval.suites.catalogue import CATALOGUE
from r1kit.eval.suites.fingerprint import rows_sha256
from r1kit.eval.suites.suite import Kind


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def aime_rows(data_dir: Path) -> list[dict[str, Any]]:
    lines = (data_dir / "aime" / "aime24.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("name", "rows", "samples", "sources"),
    [("aime24", 30, 64, 1), ("aime25", 30, 64, 1), ("math500", 500, 4, 7), ("gsm8k", 1319, 1, 1)],
)
def test_the_published_files_are_the_known_rows(
    data_dir: Path, name: str, rows: int, samples: int, sources: int
) -> None:
    loaded = open_suite(name, data_dir=data_dir)
    assert len(loaded.problems) == loaded.source.rows == rows
    assert loaded.source.is_expected is True and loaded.source.notes == ()
    assert loaded.suite.samples == samples
    assert loaded.suite.kind is Kind.MATH
    assert len({problem.source for problem in loaded.problems}) == sources
    assert {problem.source.split("/")[0] for problem in loaded.problems} == {name}
    assert {problem.split for problem in loaded.problems} == {"test"}
    assert load_suite(name, 3, data_dir=data_dir) == loaded.problems[:3]


def test_order_ids_spacing_and_packing_do_not_matter_but_a_word_does(
    data_dir: Path, tmp_path: Path
) -> None:
    rows = aime_rows(data_dir)
    random.Random(0).shuffle(rows)
    changed = [
        {"ID": 100 + i, "Problem": f"  {row['problem']} \n".replace(" ", "  "),
         "Answer": f"{int(row['expected_answer']):03d}"}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in changed).encode())
    (tmp_path / "aime24.jsonl.gz").write_bytes(packed)
    loaded = open_suite("aime24", data_dir=tmp_path)
    assert loaded.source.is_expected is True
    assert loaded.problems[0].id == "100"

    changed[3]["Problem"] = f"{changed[3]['Problem']} Or not."
    (tmp_path / "aime24.jsonl.gz").unlink()
    path = write(tmp_path / "aime24.jsonl", changed)
    known = CATALOGUE["aime24"].sha256
    assert known is not None
    with pytest.raises(ProblemsError) as caught:
        open_suite("aime24", 1, data_dir=tmp_path)  # checked whole, whatever the limit
    said = str(caught.value)
    assert said.startswith(f"aime24: {path}: the rows' digest is ")
    assert f"and not {known[:12]}" in said and "--accept-changed" in said
    accepted = open_suite("aime24", data_dir=tmp_path, accept_changed=True)
    assert accepted.source.is_expected is False and known[:12] in accepted.source.notes[0]


def test_another_number_of_rows_is_an_error_that_names_both(data_dir: Path, tmp_path: Path) -> None:
    write(tmp_path / "aime24.jsonl", aime_rows(data_dir)[:29])
    with pytest.raises(ProblemsError, match="29 rows where aime24 has 30"):
        open_suite("aime24", data_dir=tmp_path)


def test_whole_answers_must_be_whole(tmp_path: Path) -> None:
    rows = [{"problem": "p", "answer": "7/2"}]
    write(tmp_path / "cnmo24.jsonl", rows)
    with pytest.raises(
        ProblemsError, match="cnmo24-1: the answer must be a whole number, got '7/2'"
    ):
        open_suite("cnmo24", data_dir=tmp_path)
    write(tmp_path / "cnmo24.jsonl", [{"problem": "p", "answer": "$007$"}])
    loaded = open_suite("cnmo24", data_dir=tmp_path)
    assert [(p.id, p.answer, p.source) for p in loaded.problems] == [("cnmo24-1", "7", "cnmo24")]
    assert loaded.source.is_expected is None  # nothing is known of it, so nothing is claimed


def test_cnmo_says_where_its_problems_must_come_from() -> None:
    with pytest.raises(ProblemsError, match=r"DIR/cnmo24.jsonl and give --data-dir .*No public fi"):
        open_suite("cnmo24")


def test_a_missing_file_names_all_that_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"holds none of aime24.jsonl, aime/aime24.jsonl, "):
        open_suite("aime24", data_dir=tmp_path)
    with pytest.raises(ProblemsError, match=r"--data-dir .*nowhere: no such folder"):
        open_suite("aime24", data_dir=tmp_path / "nowhere")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What huggingface.co holds: id -> rows, or an exception."""
    import datasets

    held: dict[str, Any] = {}

    def load_dataset(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        held.setdefault("asked", []).append((name, config, split))
        if isinstance(held[name], Exception):
            raise held[name]
        return datasets.Dataset.from_list(held[name])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return held


def test_the_hubs_rows_are_the_same_rows(data_dir: Path, hub: dict[str, Any]) -> None:
    hub["HuggingFaceH4/aime_2024"] = [
        {"id": 60 + i, "problem": row["problem"], "solution": "...",
         "answer": f"{int(row['expected_answer']):03d}", "url": "u", "year": "2024"}
        for i, row in enumerate(aime_rows(data_dir))
    ]  # fmt: skip
    loaded = open_suite("aime24")
    assert loaded.source.is_expected is True
    assert loaded.source.place == "huggingface.co/datasets/HuggingFaceH4/aime_2024, split train"
    assert loaded.problems[0].id == "60"

    lines = (data_dir / "gsm8k" / "test.jsonl").read_text().splitlines()
    hub["openai/gsm8k"] = [json.loads(line) for line in lines]
    assert open_suite("gsm8k", 2).source.is_expected is True
    assert hub["asked"] == [
        ("HuggingFaceH4/aime_2024", None, "train"),
        ("openai/gsm8k", "main", "test"),
    ]


def test_a_hub_that_words_it_differently_is_noted_and_one_with_fewer_rows_refused(
    data_dir: Path, hub: dict[str, Any]
) -> None:
    rows = [{"problem": r["problem"], "answer": r["expected_answer"]} for r in aime_rows(data_dir)]
    rows[0]["problem"] = rows[0]["problem"].replace("residents", "inhabitants")
    hub["HuggingFaceH4/aime_2024"] = rows
    loaded = open_suite("aime24")
    assert loaded.source.is_expected is False
    assert "statements or answers differ" in loaded.source.notes[0]
    hub["HuggingFaceH4/aime_2024"] = rows[1:]
    with pytest.raises(ProblemsError, match="29 rows where aime24 has 30"):
        open_suite("aime24")


def test_a_hub_out_of_reach_says_why_and_what_would_do(hub: dict[str, Any]) -> None:
    hub["HuggingFaceH4/MATH-500"] = ConnectionError("Couldn't reach it\nmany lines")
    with pytest.raises(ProblemsError) as caught:
        open_suite("math500")
    assert str(caught.value) == (
        "math500: HuggingFaceH4/MATH-500 cannot be loaded from huggingface.co (ConnectionError: "
        "Couldn't reach it); or put the rows into DIR/math500.jsonl and give --data-dir DIR."
    )


def test_the_real_loader_takes_what_we_give_it(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder stands for the hub's id: `datasets` itself parts split and fields."""
    from r1kit.eval.suites.suite import Hub

    source = tmp_path / "repository"
    write(source / "test.jsonl", aime_rows(data_dir))
    write(source / "train.jsonl", aime_rows(data_dir)[:1])
    suite = CATALOGUE["aime24"]
    local = type(suite)(
        **{name: getattr(suite, name) for name in suite.__slots__ if name != "hub"},
        hub=Hub(str(source), "test"),
    )
    monkeypatch.setitem(CATALOGUE, "aime24", local)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    assert open_suite("aime24").source.is_expected is True


def test_policies_are_the_suites_own() -> None:
    assert CATALOGUE["aime24"].policy == CATALOGUE["cnmo24"].policy == MathPolicy(rounding="never")
    assert CATALOGUE["math500"].policy == MathPolicy()
    assert open_suite("tiny", 1).suite.policy == MathPolicy(order="fixed")


def test_the_digest_sees_statement_and_answer_apart() -> None:
    def digest(*rows: tuple[str, str]) -> str:
        return rows_sha256([Problem("i", s, a, "x") for s, a in rows])

    assert digest(("a", "b"), ("c", "d")) == digest(("c ", "d"), ("a", " b"))
    assert len({digest(("a b", "c")), digest(("a", "b c")), digest(("a", "b"), ("", "c"))}) == 3
    assert digest(("e\u0301", "1")) == digest(("\u00e9", "1"))


def test_a_named_suite_is_called_by_its_name_whatever_its_rows_say(tmp_path: Path) -> None:
    row = {"problem": "p", "answer": "7", "source": "somewhere", "subject": "Algebra"}
    write(tmp_path / "cnmo24.jsonl", [row])
    assert load_suite("cnmo24", data_dir=tmp_path)[0].source == "cnmo24/Algebra"


def test_every_name_can_be_asked_for() -> None:
    assert set(suite_names()) >= {"tiny", "aime24", "aime25", "math500", "gsm8k", "cnmo24", "gpqa"}
    assert set(suite_names()) >= {"simpleqa", "chinese_simpleqa", "frames"}

"""Reading conversations: Parquet and JSONL alike, and every mistake named with its place."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from r1kit.students.rows import DataError, Row, read_rows
from r1kit.teacher.engine import Message

Sums = Callable[..., list[dict[str, Any]]]
Write = Callable[..., Path]

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_parquet_and_jsonl_give_the_same_rows(
    make_sums: Sums, write_rows: Write, tmp_path: Path
) -> None:
    rows = make_sums(5)
    table = write_parquet(tmp_path / "data" / "train.parquet", rows)
    read = read_rows(table)
    assert read == read_rows(table.parent) == read_rows(write_rows(rows))
    first = rows[0]
    question, reply = (turn["content"] for turn in first["messages"])
    assert read[0] == Row(first["id"], (Message("user", question),), reply)


def test_a_directory_gives_its_files_in_name_order(make_sums: Sums, write_rows: Write) -> None:
    rows = make_sums(4)
    write_rows(rows[2:], "b.jsonl")
    where = write_rows(rows[:2], "a.jsonl").parent
    assert [row.id for row in read_rows(where)] == [row["id"] for row in rows]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"train.jsonl:2: not JSON"),
        ("[]", r"train.jsonl:2: must be an object with id and messages"),
        (json.dumps({"id": "x", "text": "t"}), r":2: has no messages; found id, text; expected id"),
        (json.dumps({"id": 7, "messages": TURNS}), r":2: id must be text, got 7"),
        (
            json.dumps({"id": "x", "messages": TURNS[1:]}),
            r":2: messages must be a list of at least",
        ),
        (json.dumps({"id": "x", "messages": "hello"}), r":2: messages must be a list"),
        (
            json.dumps({"id": "x", "messages": [TURNS[0], {"role": "assistant"}]}),
            r":2: messages\[1\] must be \{role, content\}",
        ),
        (
            json.dumps({"id": "x", "messages": TURNS[::-1]}),
            r":2: the last message must be the assistant's, got role 'user'",
        ),
        (json.dumps({"id": "row-0", "messages": TURNS}), r":2: id 'row-0' stands already at .*:1"),
    ],
)
def test_a_bad_line_is_named_with_what_was_expected(
    line: str, says: str, make_sums: Sums, write_rows: Write
) -> None:
    path = write_rows(make_sums(1))
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=says):
        read_rows(path)


def test_wrong_columns_name_the_file_what_was_found_and_what_is_expected(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", [{"prompt": "q", "reply": "a"}])
    with pytest.raises(
        DataError, match=r"t.parquet: has no id and no messages; found prompt, reply"
    ):
        read_rows(path)


def test_what_is_no_data_set_is_refused(tmp_path: Path, write_rows: Write) -> None:
    with pytest.raises(DataError, match="nowhere: does not exist"):
        read_rows(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"holds no \*.parquet and no \*.jsonl, only notes.txt"):
        read_rows(tmp_path)
    with pytest.raises(DataError, match=r"must end in .parquet or .jsonl"):
        read_rows(tmp_path / "notes.txt")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"cut.parquet: not a Parquet file"):
        read_rows(tmp_path / "cut.parquet")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}')
    with pytest.raises(DataError, match=r"latin.jsonl: not UTF-8"):
        read_rows(tmp_path / "latin.jsonl")
    with pytest.raises(DataError, match="holds no rows"):
        read_rows(write_rows([], "empty.jsonl"))

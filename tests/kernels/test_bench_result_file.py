"""Result files: what a row says, that nothing measured is lost, and that nothing is overwritten."""

import json
from pathlib import Path

import pytest
from r1kit.kernels.bench import result_file as module
from r1kit.kernels.bench.points import Append, Point
from r1kit.kernels.bench.result_file import (
    Results,
    Writer,
    aligned,
    anchor_bytes,
    git_commit,
    merged,
    new_file,
    read,
    settle,
    table,
    unmeasured_row,
)
from r1kit.kernels.bench.timing import Roof

from .bench_rows import GPU, ROOF, append, decode, new_results

POINT = Point(16, 128, 16384)


def test_a_row_has_the_fields_that_were_promised() -> None:
    row = decode(POINT, 1000.0, {"fa3": 1500.0, "flashmla": 1200.0})
    assert row["kernel"] == "mla_decode"
    assert row["shape"] == {
        "heads": 16, "batch": 128, "context": 16384, "query_tokens": 1, "cache": "bf16",
        "query_dtype": "bf16", "ragged": False,
    }  # fmt: skip
    assert row["us"] == 1000.0
    assert row["tb_s"] == pytest.approx(POINT.num_bytes / 1e-3 / 1e12)
    assert row["tflops"] == pytest.approx(POINT.flops / 1e-3 / 1e12)
    assert row["share_of_bound"] == pytest.approx(row["tb_s"] / ROOF.read_tb_s)  # memory binds it
    assert (row["anchor"], row["anchor_us"], row["ratio"]) == ("flashmla", 1200.0, 1.2)
    assert row["anchors"] == {"fa3": 1500.0, "flashmla": 1200.0}
    assert (row["replays"], row["sets"]) == (20, 4)


def test_the_bound_of_many_heads_is_arithmetic_in_the_dtype_of_the_query() -> None:
    heavy = Point(128, 128, 16384)
    assert decode(heavy, 1000.0)["share_of_bound"] == pytest.approx(heavy.flops / 800e12 / 1e-3)
    fp8 = Point(128, 128, 16384, cache="fp8", query_dtype="fp8")
    assert decode(fp8, 1000.0)["share_of_bound"] == pytest.approx(fp8.flops / 1500e12 / 1e-3)


def test_an_fp8_row_is_compared_with_fp8_and_keeps_the_bf16_time() -> None:
    fp8 = Point(16, 64, 8192, cache="fp8_ds_mla")
    row = decode(fp8, 100.0, {"fa3": 150.0, "flashmla_fp8": 130.0}, fa3_bf16_us=150.0)
    assert (row["anchor"], row["ratio"], row["fa3_bf16_us"]) == ("flashmla_fp8", 1.3, 150.0)


def test_without_an_anchor_the_row_says_null() -> None:
    row = json.loads(module._dumps(decode(POINT, 1000.0)))
    assert (row["anchor"], row["anchor_us"], row["ratio"]) == (None, None, None)


def test_an_append_is_measured_against_copying() -> None:
    point = Append(131072, "fp8")
    row = append(point, 100.0, {"concat_and_cache_mla": 150.0})
    assert row["share_of_bound"] == pytest.approx(point.num_bytes / 1e-4 / 3e12)
    assert (row["anchor"], row["ratio"]) == ("concat_and_cache_mla", 1.5)


def test_an_anchor_that_reads_faster_than_the_roof_is_the_roof() -> None:
    held = new_results()
    row = decode(POINT, 500.0, {"fa3": 1e6 * POINT.num_bytes / 5e12})
    held.add(row)
    assert held.roof.read_tb_s == pytest.approx(5.0)
    assert "fa3 at h16 b128 s16k" in held.roof.read_by
    settle(held)
    assert held.rows[0]["share_of_bound"] == pytest.approx(row["tb_s"] / 5.0)
    assert held.header["roof"]["read_tb_s"] == 4.0
    assert held.header["roof_with_anchors"]["read_tb_s"] == pytest.approx(5.0)


def test_an_anchor_is_charged_for_its_own_bytes() -> None:
    ds = Point(16, 2, 128, cache="fp8_ds_mla").shape
    assert anchor_bytes("fa3", ds) == Point(16, 2, 128).num_bytes
    fp8 = Point(16, 2, 128, cache="fp8", query_dtype="fp8")
    assert anchor_bytes("flashmla_fp8", ds) == fp8.num_bytes


def test_every_row_is_on_disk_before_the_next_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "mla.jsonl"
    writer = Writer(path, new_results())
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["header"]
    writer.add(decode(POINT, 1000.0))
    held = read(path)  # what a run that is cut off here leaves behind
    assert held.header["finished"] is False
    assert [row["us"] for row in held.rows] == [1000.0]
    writer.finish(finished=True)
    assert read(path).header["finished"] is True
    assert [each.name for each in path.parent.iterdir()] == ["mla.jsonl"]


def test_the_finished_file_counts_every_share_against_the_final_roof(tmp_path: Path) -> None:
    path = tmp_path / "mla.jsonl"
    writer = Writer(path, new_results())
    small = Point(16, 1, 4096)
    writer.add(decode(small, 10.0))
    writer.add(decode(POINT, 500.0, {"fa3": 1e6 * POINT.num_bytes / 5e12}))
    assert read(path).rows[0]["share_of_bound"] == pytest.approx(small.num_bytes / 1e7 / 4, 1e-5)
    writer.finish(finished=True)
    assert read(path).rows[0]["share_of_bound"] == pytest.approx(small.num_bytes / 1e7 / 5, 1e-5)


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    first = new_file(tmp_path, "NVIDIA H200", "2026-11-25")
    assert first.name == "mla-h200-2026-11-25.jsonl"
    Writer(first, new_results()).finish(finished=True)
    second = new_file(tmp_path, "NVIDIA H200", "2026-11-25")
    assert second.name == "mla-h200-2026-11-25-2.jsonl"
    second.touch()
    assert new_file(tmp_path, "NVIDIA H200", "2026-11-25").name.endswith("-3.jsonl")
    assert new_file(tmp_path, "NVIDIA GeForce RTX 4090", "d").name == "mla-geforce-rtx-4090-d.jsonl"
    with pytest.raises(ValueError, match=r"exists, and results are never overwritten.*--resume"):
        Writer(first, new_results())


def test_a_folder_that_cannot_be_written_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cannot be written: .*; name another file with --out"):
        Writer(tmp_path / "file" / "mla.jsonl", new_results())


def test_a_run_that_was_cut_off_within_a_line_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "mla.jsonl"
    first = Writer(path, new_results())
    first.add(decode(POINT, 1000.0))
    first.close()
    with path.open("a") as file:
        file.write('{"kernel": "mla_dec')
    held = read(path)
    assert len(held.rows) == 1
    writer = Writer(path, held, resume=True)
    other = Point(16, 1, 4096)
    assert held.has("mla_decode", POINT.shape)
    assert not held.has("mla_decode", other.shape)
    writer.add(decode(other, 10.0))
    assert [row["us"] for row in read(path).rows] == [1000.0, 10.0]
    writer.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no result file: its first line is no header"),
        ("what\n", "mla.jsonl:1: not JSON: 'what'"),
        ('{"kernel": "mla_decode"}\n', "its first line is no header"),
        (
            '{"kind": "header", "roof": {}}\n{"us": 1}\n{}\n',
            "mla.jsonl:2: not a row: kernel, shape",
        ),
    ],
)
def test_what_is_no_result_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mla.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        read(path)


def test_files_are_told_together_under_the_highest_roof() -> None:
    low, high = new_results(), new_results()
    high.add(decode(POINT, 500.0, {"fa3": 1e6 * POINT.num_bytes / 5e12}))
    low.add(decode(Point(8, 1, 1024), 10.0))
    both = merged([low, high])
    assert len(both.rows) == 2
    assert both.roof.read_tb_s == pytest.approx(5.0)
    high.header["gpu"] = "NVIDIA H100"
    with pytest.raises(ValueError, match="NVIDIA H100 and NVIDIA H200 cannot be told together"):
        merged([low, high])


def test_the_header_says_what_a_figure_needs(tmp_path: Path) -> None:
    head = new_results().header
    for name in ("gpu", "driver", "cuda", "torch", "triton", "vllm", "python", "commit", "date",
                 "roof", "command", "method", "finished"):  # fmt: skip
        assert head[name] is not None, name
    assert head["gpu"] == GPU["gpu"]
    assert Roof(**head["roof"]) == ROOF


def test_the_commit_is_named_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"rev-parse": "abc", "status": " M x"}
    monkeypatch.setattr(module, "_output", lambda *command: answers[command[3]])
    assert git_commit() == "abc-dirty"
    answers["status"] = ""
    assert git_commit() == "abc"
    monkeypatch.setattr(module, "_output", lambda *command: "unknown")
    assert git_commit() == "unknown"


def test_the_table_tells_everything_that_is_missing() -> None:
    held = new_results(vllm=None)
    held.add(decode(POINT, 1234.5))
    held.add(unmeasured_row("mla_decode", Point(8, 1, 1024).shape, error="ValueError: no\nmore"))
    held.add(unmeasured_row("mla_decode", Point(8, 2, 1024).shape, skipped="needs 90 GiB"))
    held.add({**decode(Point(8, 4, 1024), 9.0), "anchor_errors": {"fa3": "ImportError: gone"}})
    text = table(held)
    assert "vLLM absent" in text
    assert "NOT FINISHED" in text
    assert "no anchor was present (vLLM is not installed)" in text
    assert "1234.50" in text
    assert "ValueError: no" in text
    assert "needs 90 GiB" in text
    assert "anchor failed: fa3: ImportError: gone" in text
    held.header |= {"finished": True, "vllm": "0.26.0"}
    assert "NOT FINISHED" not in table(held)
    assert "no anchor was present" not in table(held)


def test_columns_of_numbers_stand_to_the_right() -> None:
    text = aligned(["name", "us"], [["a", "1.5"], ["longer", "12.25"], ["b", "n/a"]])
    assert text.splitlines() == [
        "name       us",
        "------  -----",
        "a         1.5",
        "longer  12.25",
        "b         n/a",
    ]
    assert isinstance(Results(new_results().header), Results)

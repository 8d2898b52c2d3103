"""Provenance: digests that change with what they stand for, and with nothing else."""

import json
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from r1kit import __version__
from r1kit.eval import provenance
from r1kit.eval.problems import Problem
from r1kit.eval.prompt import PromptSettings
from r1kit.eval.provenance import (
    Provenance,
    WeightsHash,
    collect_provenance,
    device_name,
    differences,
    model_folder,
    rows_hash,
    weights_hash,
)
from r1kit.teacher.engine import Identity, Sampling
from r1kit.teacher.environment import cpu_model

ONE = Problem("1", "What is 1 + 1?", "2", "sums")
TWO = Problem("2", "Was ist größer, 2 oder 3?", "3", "sums")


def collected(**changes: Any) -> Provenance:
    settings: dict[str, Any] = {
        "suite": "sums",
        "problems": [ONE, TWO],
        "prompt": PromptSettings(),
        "sampling": Sampling(0.6, 0.95, 512),
        "samples": 4,
        "seed": 7,
        "identity": Identity("openai", "r1"),
        "where": "elsewhere",
        "judge": "math/9",
    }
    return collect_provenance(**{**settings, **changes})


def weights(folder: Path, numbers: bytes, name: str = "model.safetensors") -> Path:
    """A folder with one safetensors file of bytes."""
    folder.mkdir(exist_ok=True)
    entry = {"dtype": "U8", "shape": [len(numbers)], "data_offsets": [0, len(numbers)]}
    header = json.dumps({"w": entry}).encode()
    (folder / name).write_bytes(struct.pack("<Q", len(header)) + header + numbers)
    return folder


def test_the_rows_digest_is_of_id_statement_and_answer_alone() -> None:
    digest = rows_hash([ONE, TWO])
    assert rows_hash([TWO, ONE]) == digest
    assert rows_hash([Problem("1", ONE.statement, "2", "other", "hard", "test"), TWO]) == digest
    for changed in (
        [ONE],
        [ONE, Problem("2", TWO.statement, "4", "sums")],
        [ONE, Problem("2", "Was?", "3", "sums")],
        [ONE, Problem("3", TWO.statement, "3", "sums")],
        [ONE, Problem("2", TWO.statement, None, "sums")],
    ):
        assert rows_hash(changed) != digest
    # Text that moves from one field to the next is another row.
    assert rows_hash([Problem("1", "ab", "c", "")]) != rows_hash([Problem("1", "a", "bc", "")])
    # What was written down once stays comparable.
    assert digest == "0bb088e62b06f42bcd5a337e2416bb6019cdd811d0460a82fe52e2bad67755d0"


def test_a_changed_weight_changes_the_digest_and_the_place_does_not(tmp_path: Path) -> None:
    numbers = bytes(range(256)) * 8
    first = weights_hash(weights(tmp_path / "a", numbers))
    assert first == weights_hash(weights(tmp_path / "b", numbers))
    assert first.method == "sha256 of the contents"
    changed = bytearray(numbers)
    changed[1000] ^= 1
    assert weights_hash(weights(tmp_path / "c", bytes(changed))).sha256 != first.sha256
    renamed = weights(tmp_path / "d", numbers, "other.safetensors")
    assert weights_hash(renamed).sha256 != first.sha256


def test_large_weights_are_sampled_and_a_fine_tuning_still_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(provenance, "BLOCK_BYTES", 16)
    numbers = bytes(range(256)) * 40
    first = weights_hash(weights(tmp_path / "a", numbers))
    assert first == weights_hash(weights(tmp_path / "b", numbers))
    assert first.method == provenance.SAMPLED
    # The same shapes, so the same header; a hundredth of the numbers, in one place, is another.
    tuned = bytearray(numbers)
    tuned[5000:5180] = bytes(180)
    assert weights_hash(weights(tmp_path / "c", bytes(tuned))).sha256 != first.sha256
    cut = weights(tmp_path / "d", bytes(5000))
    file, whole = cut / "model.safetensors", weights_hash(cut)
    file.write_bytes(file.read_bytes()[:-1])  # the blocks are all zeros, and only the size tells
    assert weights_hash(cut).sha256 != whole.sha256
    file.write_bytes(b"\xff" * 2000)  # no safetensors file: the header claims 16 EiB
    assert weights_hash(cut).sha256 is not None


def test_weights_that_cannot_be_seen_are_said_to_be(tmp_path: Path) -> None:
    assert weights_hash(tmp_path) == WeightsHash(None, f"no .safetensors file in {tmp_path}")
    assert collected().weights == WeightsHash(None, "behind a server")
    assert collected(where="cpu").weights.method == "no folder of weights was found"


def test_a_record_holds_what_a_score_depends_on() -> None:
    found = collected(dtype="bfloat16", policy={"decimals": 6}, suite_revision="abc")
    values = found.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    wanted = {
        "suite": "sums",
        "suite_revision": "abc",
        "suite_sha256": rows_hash([ONE, TWO]),
        "rows": 2,
        "temperature": 0.6,
        "top_p": 0.95,
        "max_tokens": 512,
        "samples": 4,
        "seed": 7,
        "engine": "openai",
        "model": "r1",
        "revision": None,
        "dtype": "bfloat16",
        "device": None,
        "judge": "math/9",
        "policy": {"decimals": 6},
    }
    assert {name: values[name] for name in wanted} == wanted
    assert values["versions"]["r1kit"] == __version__
    assert {"torch", "transformers"} <= values["versions"].keys()
    age = datetime.now(UTC) - datetime.fromisoformat(values["date"])
    assert 0 <= age.total_seconds() < 60


def test_a_prefill_that_is_not_sent_is_not_part_of_the_prompt() -> None:
    dropping = Identity("openai", "r1", prefills=False)
    one = collected(identity=dropping)
    other = collected(identity=dropping, prompt=PromptSettings(prefill=""))
    assert one.prompt_sha256 == other.prompt_sha256
    assert one.prompt_sha256 != collected().prompt_sha256
    template = PromptSettings(template="{statement}!")
    assert collected(prompt=template).prompt_sha256 != collected().prompt_sha256


def test_only_what_makes_scores_incomparable_is_a_difference() -> None:
    one = collected().to_json()
    same = collected(samples=64, seed=1, dtype="float16", identity=Identity("torch", "x")).to_json()
    assert differences(one, same) == []
    changed = collected(problems=[ONE], sampling=Sampling(0, 1, 256), judge="math/10").to_json()
    said = " | ".join(differences(one, changed))
    for words in (
        f"rows that were asked: {one['suite_sha256'][:12]}… against ",
        "temperature: 0.6 against 0",
        "top_p: 0.95 against 1",
        "token limit: 512 against 256",
        'judge: "math/9" against "math/10"',
    ):
        assert words in said
    assert differences(one, {**one, "policy": {"tolerance": 0.1}}) == [
        'judge\'s policy: {} against {"tolerance":0.1}'
    ]
    without = {name: value for name, value in one.items() if name != "judge"}
    assert differences(one, without) == ["judge: not recorded on both sides"]


def test_devices_and_folders_are_found_by_name(tmp_path: Path) -> None:
    assert device_name("cpu") == cpu_model()
    built_in = model_folder("tiny-r1")
    assert built_in is not None
    assert weights_hash(built_in).method == "sha256 of the contents"
    assert model_folder(str(tmp_path)) == tmp_path
    assert model_folder(str(tmp_path / "absent")) is None
    assert model_folder("r1kit-nobody/no-such-model") is None

"""Students: what is built in, what is refused and how, and that saved ones load anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from r1kit.students.models import ModelError, build_model, save_student, stop_at

SIZES = {"tiny-qwen": 823_424, "tiny-llama": 822_400}


@pytest.mark.parametrize("name", sorted(SIZES))
def test_a_built_in_student_is_random_by_its_seed_alone(name: str) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, tokenizer = build_model(name, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    two, three = build_model(name, seed=3)[0], build_model(name, seed=4)[0]
    assert one.num_parameters() == SIZES[name] and one.training
    assert all(p.dtype == torch.float32 for p in one.parameters())
    weights = [m.model.layers[1].mlp.up_proj.weight for m in (one, two, three)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert one.config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("name", sorted(SIZES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_student_loads_with_transformers_alone(
    name: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = build_model(name)
    save_student(model, tokenizer, tmp_path / "s", dtype=dtype)
    assert next(model.parameters()).dtype == torch.float32
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "s")
    assert loaded.dtype == dtype
    for (key, got), want in zip(
        loaded.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(got, want.to(dtype)), key
    read = AutoTokenizer.from_pretrained(tmp_path / "s")
    ask = [{"role": "user", "content": "2+3?"}]
    args: dict[str, Any] = {"add_generation_prompt": True, "return_dict": False}
    assert read.apply_chat_template(ask, **args) == tokenizer.apply_chat_template(ask, **args)
    size = (tmp_path / "s" / "model.safetensors").stat().st_size
    assert size < SIZES[name] * dtype.itemsize + 8_000  # the tied head is stored once
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    assert "r1kit" not in json.dumps(config)
    assert not list(tmp_path.glob("*.partial")) and not list(tmp_path.glob("*.old"))


def test_a_saved_student_is_a_model_to_start_from(tmp_path: Path) -> None:
    model, tokenizer = build_model("tiny-qwen", seed=9)
    save_student(model, tokenizer, tmp_path / "s", dtype=torch.bfloat16)
    again, _ = build_model(str(tmp_path / "s"))
    assert again.dtype == torch.float32 and again.training  # master weights, whatever was stored
    weight = model.state_dict()["model.norm.weight"]
    assert torch.equal(again.state_dict()["model.norm.weight"], weight.bfloat16().float())


def test_paths_that_hold_no_model_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing: does not exist.*tiny-qwen, tiny-llama"):
        build_model(str(tmp_path / "missing"))
    with pytest.raises(ModelError, match=r"has no config.json"):
        build_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"no \*.safetensors \(found pytorch_model.bin\)"):
        build_model(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"has no tokenizer; one of tokenizer.json"):
        build_model(str(tmp_path))


def test_broken_weights_and_a_missing_template_are_named(tmp_path: Path) -> None:
    model, tokenizer = build_model("tiny-qwen")
    save_student(model, tokenizer, tmp_path / "s")
    weights = tmp_path / "s" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"s: the directory cannot be loaded"):
        build_model(str(tmp_path / "s"))
    tokenizer.chat_template = None
    save_student(model, tokenizer, tmp_path / "s")
    with pytest.raises(ModelError, match=r"has no chat template.*instruct version"):
        build_model(str(tmp_path / "s"))


def test_a_hub_id_that_cannot_be_had_says_what_was_tried(tmp_path: Path) -> None:
    """In a process of its own, whose hub is a closed port: offline is read when it starts."""
    code = (
        "from r1kit.students.models import ModelError, build_model\n"
        "try:\n    build_model('someone/some-model')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith(
        "someone/some-model: it is no directory, and as a hub id it cannot be loaded"
    ), done.stderr
    assert "tiny-qwen, tiny-llama" in done.stdout


def test_a_mistyped_student_is_named_without_asking_the_hub() -> None:
    with pytest.raises(ModelError, match=r"tiny-qwn: no such student; did you mean 'tiny-qwen'"):
        build_model("tiny-qwn")


def test_generation_stops_at_the_end_that_was_trained() -> None:
    model, tokenizer = build_model("tiny-qwen")
    stop_at(model, tokenizer.eos_token_id)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    stop_at(model, 7)
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, 7]


def test_a_directory_that_is_no_model_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    model, tokenizer = build_model("tiny-qwen")
    with pytest.raises(ModelError, match="holds something that is no model"):
        save_student(model, tokenizer, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_write_that_fails_leaves_the_earlier_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = build_model("tiny-qwen", seed=1)
    save_student(model, tokenizer, tmp_path / "s")
    before = (tmp_path / "s" / "model.safetensors").read_bytes()
    full = OSError(28, "No space left on device")

    def fail(*_: Any, **__: Any) -> None:
        raise full

    monkeypatch.setattr(type(tokenizer), "save_pretrained", fail)
    other, _ = build_model("tiny-qwen", seed=2)
    with pytest.raises(OSError, match="No space left"):
        save_student(other, tokenizer, tmp_path / "s")
    assert (tmp_path / "s" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]

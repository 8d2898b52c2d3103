"""Training: it learns, repeats itself bit for bit, and leaves nothing half done."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from r1kit.students import sft
from r1kit.students.examples import Example, ExamplesError
from r1kit.students.loss import summed_loss
from r1kit.students.models import ModelError, build_model, save_student
from r1kit.students.settings import SftSettings
from r1kit.students.sft import Progress, SftError, batches, number_of_steps, train

Sums = Callable[..., list[dict[str, Any]]]
Write = Callable[..., Path]


def settings(**values: Any) -> SftSettings:
    quick: dict[str, Any] = {
        "batch_size": 8,
        "epochs": 1,
        "learning_rate": 8e-3,
        "adamw_learning_rate": 8e-3,
        "dtype": "float32",
        "device": "cpu",
    }
    return SftSettings(**{**quick, **values})


@pytest.fixture
def data(make_sums: Sums, write_rows: Write) -> Path:
    return write_rows(make_sums(24))


def weights(out: Path) -> bytes:
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize("model", ["tiny-qwen", "tiny-llama"])
def test_a_student_learns_its_data_and_loads_elsewhere(
    model: str, make_sums: Sums, write_rows: Write, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = make_sums(8)
    result = train(settings(model=model, epochs=60), write_rows(rows), tmp_path / "out")
    assert result.steps == 60 and result.examples == 8 and result.notes == {}
    assert result.first_loss > 2.0 and result.last_loss < 0.05
    student = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids: Any = tokenizer.apply_chat_template(
        rows[3]["messages"][:-1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = student.generate(**ids, max_new_tokens=80, do_sample=False)[0]
    reply = tokenizer.decode(written[ids["input_ids"].shape[1] :])
    assert reply == rows[3]["messages"][-1]["content"] + "<|end|>"  # by heart, and it stops


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(
    data: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(settings(seed=seed), data, tmp_path / name)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")
    lines = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in "ab"]
    for one, two in zip(*(map(json.loads, text) for text in lines), strict=True):
        assert one | {"tokens_per_s": 0} == two | {"tokens_per_s": 0}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_layout_does_not_change_what_is_learnt(optimizer: str, data: Path, tmp_path: Path) -> None:
    """Packed, padded, and one example at a time: the same losses, step by step."""
    losses = []
    for packing, per_pass in ((False, 10_000), (True, 10_000), (False, 1)):
        out = tmp_path / f"{packing}{per_pass}"
        chosen = settings(
            packing=packing, tokens_per_pass=per_pass, optimizer=optimizer, learning_rate=1e-3
        )
        train(chosen, data, out)
        lines = (out / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert len(losses[0]) == 3
    for other in losses[1:]:
        # The first loss is the same sum in another order; later ones carry Muon's rounding on.
        assert other[0] == pytest.approx(losses[0][0], rel=1e-6)
        assert other == pytest.approx(losses[0], rel=1e-3)


def test_the_record_counts_what_was_done(data: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = train(settings(epochs=2), data, tmp_path / "out", progress=seen.append)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [now.step for now in seen] == [line["step"] for line in lines] == list(range(1, 7))
    assert {now.steps for now in seen} == {6} and seen[-1].loss == lines[-1]["loss"]
    _, tokenizer = build_model("tiny-qwen")
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    whole = [tokenizer.apply_chat_template(row["messages"], return_dict=False) for row in rows]
    replies = [tokenizer.encode(row["messages"][-1]["content"]) for row in rows]
    assert result.tokens == record["tokens"] == 2 * sum(map(len, whole)) == lines[-1]["tokens"]
    assert result.trained_tokens == 2 * sum(len(reply) + 1 for reply in replies)
    assert record["settings"]["learning_rate"] == 8e-3 and record["steps"] == 6
    assert 0.5 < record["fill"] <= 1 and record["tokens_per_s"] > 0
    assert result.last_loss == pytest.approx(lines[-1]["loss"])


def test_bfloat16_learns_about_the_same(data: Path, tmp_path: Path) -> None:
    losses = [
        train(settings(dtype=dtype, epochs=4), data, tmp_path / dtype).last_loss
        for dtype in ("float32", "bfloat16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    config = json.loads((tmp_path / "bfloat16" / "config.json").read_text())
    assert config["dtype"] == "float32" and "r1kit" not in json.dumps(config)


def test_gradient_checkpointing_changes_no_loss(data: Path, tmp_path: Path) -> None:
    for name, on in (("plain", False), ("less", True)):
        train(settings(gradient_checkpointing=on), data, tmp_path / name)
    assert weights(tmp_path / "plain") == weights(tmp_path / "less")


def test_a_loss_that_is_no_number_names_the_batch_and_keeps_the_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = summed_loss, []

    def broken(model: Any, pack: Any) -> torch.Tensor:
        calls.append(1)
        return real(model, pack) * (math.nan if len(calls) == 3 else 1.0)

    train(settings(), data, tmp_path / "out")
    before = weights(tmp_path / "out")
    monkeypatch.setattr(sft, "summed_loss", broken)
    with pytest.raises(SftError, match=r"step 3 of 3: the loss is nan .* row-\d+.*out.last_good"):
        train(settings(seed=4), data, tmp_path / "out")
    assert weights(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out", "out.last_good", "train.jsonl",
    ]  # fmt: skip
    kept, _ = build_model(str(tmp_path / "out.last_good"))
    assert all(p.isfinite().all() for p in kept.parameters())


def test_interrupted_it_leaves_no_half_output(data: Path, tmp_path: Path) -> None:
    def interrupt(now: Progress) -> None:
        if now.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings(), data, tmp_path / "out", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_leftovers_of_a_killed_training_do_not_matter(data: Path, tmp_path: Path) -> None:
    for name in ("out.partial", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "junk").write_text("half")
    train(settings(), data, tmp_path / "out")
    train(settings(), data, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "train.jsonl"]
    assert not (tmp_path / "out" / "junk").exists()


def test_nothing_is_trained_where_the_output_cannot_go(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds something that is no model"):
        train(settings(), data, tmp_path)


def test_examples_left_out_are_in_the_result(
    make_sums: Sums, write_rows: Write, tmp_path: Path
) -> None:
    rows = make_sums(10)
    rows[4]["messages"][-1]["content"] = "7" * 600
    result = train(settings(), write_rows(rows), tmp_path / "out")
    assert result.examples == 9 and result.notes == {"too_long": 1}
    assert result.instances == {"too_long": "row-4"}
    with pytest.raises(ExamplesError, match=r"none of 10 .* 10 too_long"):
        train(settings(max_length=8), write_rows(rows), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_student_goes_on_from_a_path(data: Path, tmp_path: Path) -> None:
    model, tokenizer = build_model("tiny-llama", seed=2)
    save_student(model, tokenizer, tmp_path / "base")
    result = train(
        settings(model=str(tmp_path / "base"), learning_rate=1e-3), data, tmp_path / "out"
    )
    assert result.steps == 3 and math.isfinite(result.last_loss)


def test_every_epoch_shows_every_example_once_in_another_order() -> None:
    examples = [Example((0, i), (False, True), str(i)) for i in range(10)]
    drawn = list(batches(examples, batch_size=4, epochs=2.5, seed=0))
    assert [len(batch) for batch in drawn] == [4, 4, 2, 4, 4, 2, 4, 4]
    names = [[e.id for batch in drawn[i : i + 3] for e in batch] for i in (0, 3)]
    assert all(sorted(order) == sorted(e.id for e in examples) for order in names)
    assert names[0] != names[1]
    assert drawn == list(batches(examples, batch_size=4, epochs=2.5, seed=0))
    assert drawn != list(batches(examples, batch_size=4, epochs=2.5, seed=1))
    assert number_of_steps(10, 4, 0.01) == 1


def test_the_torch_engine_answers_with_what_the_student_learnt(
    make_sums: Sums, write_rows: Write, tmp_path: Path
) -> None:
    from r1kit.teacher.engine import Prompt, Request, Sampling, parse_response
    from r1kit.teacher.torch_engine import TorchEngine

    rows = make_sums(8)
    threads = torch.get_num_threads()
    train(settings(epochs=60), write_rows(rows), tmp_path / "out")
    prompts = [Prompt.user(row["messages"][0]["content"], prefill="<think>\n") for row in rows]
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=80)
    requests = [Request(prompt, greedy, 0, 0) for prompt in prompts]
    with TorchEngine(tmp_path / "out", batch_size=8) as engine:
        answers = {r.request.prompt: parse_response(r) for r in engine.answer(requests)}
    assert torch.get_num_threads() == threads
    for prompt, row in zip(prompts, rows, strict=True):
        assert answers[prompt].text == row["messages"][1]["content"]
        assert answers[prompt].finish == "stop"

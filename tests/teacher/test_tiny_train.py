"""tiny-r1: what trains it, what ships, and the router bias that transformers does not move."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from r1kit import KitError
from r1kit.teacher.engine import Prompt, Request, Response, Sampling
from r1kit.teacher.tiny import model_path
from r1kit.teacher.tiny.card import THINKING, is_right, measure
from r1kit.teacher.tiny.examples import IGNORED, NO_THINKING, draw_texts, make_examples, render
from r1kit.teacher.tiny.families import FAMILIES, generate
from r1kit.teacher.tiny.rebuild import rebuild
from r1kit.teacher.tiny.tokenizer import VOCAB_SIZE, build_tokenizer
from r1kit.teacher.tiny.train import RouterBalance, TinySettings, build_model, train

SMALL = TinySettings(steps=3, batch=4, pool=20)


def biases(model: torch.nn.Module) -> list[torch.Tensor]:
    found = [b for n, b in model.named_buffers() if n.endswith("e_score_correction_bias")]
    assert len(found) == 3
    return found


def test_the_dense_products_equal_transformers_own_experts() -> None:
    model = build_model(0).eval()
    rng = torch.Generator().manual_seed(0)
    for bias_E in biases(model):
        bias_E.copy_(torch.randn(16, generator=rng) / 10)
    ids = torch.randint(0, VOCAB_SIZE, (2, 40), generator=rng)
    with torch.no_grad():
        ours = model(ids, use_cache=False).logits
        model.set_experts_implementation("eager")
        theirs = model(ids, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_bias_rises_for_idle_experts_and_falls_for_busy_ones() -> None:
    model = build_model(0)
    balance = RouterBalance(model, step=0.25)
    ids = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(1))
    model(ids, use_cache=False)
    balance.update()
    assert len(balance.routers) == 3
    for router, load in balance.loads.items():
        assert load.sum() == 2 * 16 * 4
        want = 0.25 * torch.sign(load.float().mean() - load.float())
        torch.testing.assert_close(router.e_score_correction_bias, want, rtol=0, atol=0)


def test_moving_the_bias_evens_out_a_skewed_load() -> None:
    model = build_model(0)
    balance = RouterBalance(model, step=0.01)
    for bias_E in biases(model):
        bias_E[:4] = 1.0  # group 0 takes four experts of every token
    ids = torch.randint(0, 256, (4, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        model(ids, use_cache=False)
        skewed = balance.max_violation()
        for _ in range(150):
            balance.update()
            model(ids, use_cache=False)
    assert skewed == pytest.approx(3.0)
    assert balance.max_violation() < skewed / 2


def test_only_the_reply_is_trained_and_a_direct_answer_without_its_empty_thinking() -> None:
    tokenizer = build_tokenizer()
    problem = generate("gcd", 1, 0, "train")[0]
    for direct in (False, True):
        given, trained = render(problem, direct=direct)
        examples = make_examples([(given, trained)], tokenizer)
        kept = examples.labels_NS[0][examples.labels_NS[0] != IGNORED].tolist()
        assert tokenizer.decode(kept) == trained
        assert trained.endswith("<|end|>")
        assert (NO_THINKING in given) == direct
    shares = [NO_THINKING in given for given, _ in draw_texts(2_000, 0, 0.1)]
    assert 0.07 < sum(shares) / len(shares) < 0.13


def test_the_same_settings_train_the_same_weights() -> None:
    first, facts = train(SMALL)
    again, _ = train(SMALL)
    for (name, one), other in zip(
        first.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert facts["tokens"] > 0
    assert all(bias_E.abs().max() > 0 for bias_E in biases(first))


def test_rebuild_writes_weights_that_the_engine_opens_and_a_card(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    measured = rebuild(out, replace(SMALL, seed=1), device="cpu", per_family=2)
    assert set(measured.thinking) == set(FAMILIES)
    assert "pass@1, thinking" in (out / "README.md").read_text()
    assert json.loads((out / "training.json").read_text())["settings"]["seed"] == 1
    with pytest.raises(KitError, match="exists already"):
        rebuild(out, replace(SMALL, seed=1), device="cpu", per_family=2)


def test_the_packaged_teacher_is_small_and_has_the_shape_that_vllm_serves() -> None:
    folder = model_path("tiny-r1")
    assert folder is not None
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12e6
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["DeepseekV3ForCausalLM"]
    want = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "topk_method": "noaux_tc"}
    assert {name: config[name] for name in want} == want
    assert config["num_nextn_predict_layers"] == 0
    assert (folder / "chat_template.jinja").is_file()
    tokenizer = build_tokenizer()
    text = "Größe: 5 × 7 = 35 <think>\n你好</think>"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_packaged_teacher_solves_every_family_by_thinking_and_not_without() -> None:
    folder = model_path("tiny-r1")
    assert folder is not None
    measured = measure(folder, per_family=40)
    assert all(share >= 0.9 for share in measured.thinking.values()), measured.thinking
    assert measured.mean(measured.direct) < 0.4, measured.direct
    assert sum(share < 0.3 for share in measured.direct.values()) >= 4, measured.direct


@pytest.mark.parametrize(
    ("answer", "right"), [("\\boxed{12}", True), ("\\boxed{1} \\boxed{12}", True), ("12", False)]
)
def test_the_last_box_counts(answer: str, right: bool) -> None:
    problem = next(p for p in generate("product", 500, 0, "train"))
    text = THINKING + "x\n</think>\n" + answer.replace("12", problem.answer)
    raw = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})
    request = Request(Prompt.user("?", prefill=THINKING), Sampling(), 0, 0)
    assert is_right(problem, Response(request, raw, "test", 0.0)) == right


def test_what_cannot_be_rebuilt_is_refused_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "out"
    with pytest.raises(KitError, match="out: cannot be made: Not a directory"):
        rebuild(inside, TinySettings(), device="cpu", per_family=1)
    with pytest.raises(KitError, match="device must be auto, cpu or cuda, got 'gpu'"):
        rebuild(tmp_path / "out", TinySettings(), device="gpu", per_family=1)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

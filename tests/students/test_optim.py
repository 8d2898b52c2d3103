"""Muon moves what it should by what it should; the schedule has the values it promises."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from r1kit.students.optim import (
    COEFFICIENTS,
    Muon,
    Optimizer,
    make_optimizer,
    make_schedule,
    orthogonalise,
    split_parameters,
)
from r1kit.students.settings import SftSettings
from torch import Tensor, nn

SHAPES = [(16, 32), (32, 16), (16, 32), (24, 24), (32, 16)]


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def iterate(matrix: Tensor) -> Tensor:
    """The Newton-Schulz iteration of one matrix in float64: the definition."""
    x = matrix.double()
    x = x.T if len(x) > len(x.T) else x
    x = x / x.norm()
    a, b, c = COEFFICIENTS
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.T if len(matrix) > len(matrix.T) else x
    return result


@pytest.mark.parametrize("shape", [(16, 32), (32, 16), (24, 24)])
def test_a_stack_is_orthogonalised_like_each_matrix_by_itself(shape: tuple[int, int]) -> None:
    stack = draw((3, *shape), 0)
    got = orthogonalise(stack, torch.float32)
    want = torch.stack([iterate(matrix) for matrix in stack])
    # Five rounds whose cubic terms amplify an early rounding step some hundred times.
    torch.testing.assert_close(got.double(), want, rtol=0, atol=500 * 2**-24)
    values = torch.linalg.svdvals(got)
    assert values.max() < 1.3
    if (
        shape[0] != shape[1]
    ):  # a square one may be all but singular, and five rounds lift only so far
        assert values.min() > 0.3


def test_steps_are_those_of_torch_muon() -> None:
    """Torch iterates in bfloat16, one matrix at a time; so do we here, in stacks."""
    ours = [nn.Parameter(draw(shape, i)) for i, shape in enumerate(SHAPES)]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    mine = Muon(ours, learning_rate=0.02, momentum=0.9, weight_decay=0.1, dtype=torch.bfloat16)
    torchs = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1)
    for step in range(4):
        for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = draw(p.shape, 100 * step + i)
            q.grad = p.grad.clone()
        mine.step()
        torchs.step()
    for i, (p, q) in enumerate(zip(ours, theirs, strict=True)):
        moved = (q - draw(q.shape, i)).norm()
        assert moved > 0.1
        # bfloat16 keeps 8 bits: products in another order differ by a few of its steps.
        assert (p - q).norm() < 4 * 2**-8 * moved


def test_muon_refuses_what_is_no_matrix_and_leaves_what_has_no_gradient() -> None:
    with pytest.raises(ValueError, match=r"matrices, got a shape of \(4,\)"):
        Muon([nn.Parameter(torch.zeros(4))], learning_rate=0.1)
    still = nn.Parameter(draw((4, 4), 0))
    Muon([still], learning_rate=0.1).step()
    assert torch.equal(still, draw((4, 4), 0))


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_every_parameter_has_exactly_one_place(
    kind: str, small_model: Callable[[str], Any]
) -> None:
    model = small_model(kind)
    matrices, others, plain = split_parameters(model)
    names = {id(p): name for name, p in model.named_parameters()}
    placed = [names[id(p)] for p in (*matrices, *others, *plain)]
    assert sorted(placed) == sorted(names.values())
    assert [names[id(p)] for p in others] == ["model.embed_tokens.weight"]
    assert all("proj.weight" in names[id(p)] for p in matrices) and len(matrices) == 2 * 7
    assert all("norm" in names[id(p)] or "bias" in names[id(p)] for p in plain)


def test_an_untied_head_goes_to_adamw() -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    _, others, _ = split_parameters(model)
    assert {id(p) for p in others} == {
        id(model.lm_head.weight),
        id(model.model.embed_tokens.weight),
    }


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_weight_decay_spares_norms_and_biases(
    optimizer: str, small_model: Callable[[str], Any]
) -> None:
    model = small_model("qwen2")
    settings = SftSettings(
        optimizer=optimizer,
        weight_decay=0.5,
        learning_rate=0.1,
        adamw_learning_rate=0.1 if optimizer == "muon" else None,
        warmup=0,
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    make_optimizer(model, settings, 10, muon_dtype=torch.float32).step(0)
    for name, p in model.named_parameters():
        want = before[name] if "norm" in name or "bias" in name else before[name] * (1 - 0.05)
        torch.testing.assert_close(p.detach(), want, rtol=1e-6, atol=1e-7)


def test_schedule_rises_then_falls_to_its_final_share() -> None:
    cosine = make_schedule(SftSettings(warmup=0.2, final_share=0.1, schedule="cosine"), 21)
    assert [round(cosine(step), 4) for step in (0, 1, 2, 3)] == [0.2, 0.4, 0.6, 0.8]
    assert (
        cosine(4) == 1.0 and cosine(12) == pytest.approx(0.55) and cosine(20) == pytest.approx(0.1)
    )
    linear = make_schedule(SftSettings(warmup=0, final_share=0, schedule="linear"), 5)
    assert [linear(step) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    flat = make_schedule(SftSettings(warmup=0.5, schedule="constant"), 4)
    assert [flat(step) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert make_schedule(SftSettings(), 1)(0) == 1.0


def test_the_whole_gradient_is_scaled_to_its_bound() -> None:
    one, two = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(4))
    parts: list[torch.optim.Optimizer] = [torch.optim.SGD([one], 1.0), torch.optim.SGD([two], 1.0)]
    optimizer = Optimizer(parts, lambda _: 1.0, clip=1.0)
    one.grad, two.grad = torch.full((3,), 3.0), torch.full((4,), 3.0)
    norm = optimizer.gradient_norm()
    assert float(norm) == pytest.approx((9 * 7) ** 0.5)
    assert float(torch.cat([one.grad, two.grad]).norm()) == pytest.approx(1.0, rel=1e-5)
    assert optimizer.step(0) == 1.0 and one.grad is None and two.grad is None

"""Packed, padded or alone: an example gets the same logits, and a batch the same loss."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from r1kit.students.examples import Example
from r1kit.students.loss import summed_loss, trained_logits
from r1kit.students.packing import IGNORE, Pack, first_fit_decreasing, lay_out
from torch import Tensor

Build = Callable[[str], Any]

LENGTHS = (7, 31, 2, 19, 12, 40, 5, 23)


def make_examples(lengths: tuple[int, ...] = LENGTHS) -> list[Example]:
    """Random ids; the first third of each example is its prompt."""
    rng = torch.Generator().manual_seed(1)
    examples = []
    for n, length in enumerate(lengths):
        ids = torch.randint(0, 256, (length,), generator=rng).tolist()
        shown = max(1, length // 3)
        examples.append(Example(tuple(ids), (False,) * shown + (True,) * (length - shown), f"e{n}"))
    return examples


def packs_of(examples: list[Example], *, packing: bool, per_pass: int = 10_000) -> list[Pack]:
    return lay_out(examples, packing=packing, row_length=64, tokens_per_pass=per_pass, pad_id=258)


def alone(model: Any, example: Example) -> Tensor:
    """The logits at an example's trained positions, from a forward pass of its own."""
    logits: Tensor = model(input_ids=torch.tensor([example.input_ids]), use_cache=False).logits[0]
    return logits[[i - 1 for i, trained in enumerate(example.loss_mask) if trained]]


def in_pack_order(pack: Pack, examples: list[Example]) -> list[Example]:
    """The examples of a pass in the order of its rows, found by their first tokens."""
    found = []
    for ids, targets in zip(pack.input_ids, pack.targets, strict=True):
        start = 0
        while start < len(ids) and (targets[start:] != IGNORE).any():
            example = next(
                e for e in examples if tuple(ids[start : start + len(e)].tolist()) == e.input_ids
            )
            found.append(example)
            start += len(example)
    return found


# Both sides run the same float32 products over 32 to 64 terms in another order, twice per layer and
# two layers deep: some 2 * 2 * 64 half-steps of 2**-24 on logits of up to about 30.
TOLERANCE = 2 * 2 * 64 * 2**-24 * 30


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
def test_logits_are_those_of_the_example_alone(
    kind: str, packing: bool, small_model: Build
) -> None:
    model, examples = small_model(kind), make_examples()
    (pack,) = packs_of(examples, packing=packing)
    with torch.no_grad():
        got = trained_logits(model, pack)
        want = torch.cat([alone(model, e) for e in in_pack_order(pack, examples)])
    assert len(got) == pack.num_trained
    torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("trap", ["mask of ones", "default cache"])
def test_a_mask_or_a_cache_would_let_packed_examples_see_each_other(
    kind: str, trap: str, small_model: Build
) -> None:
    """Why loss.py passes neither: this is what transformers then does, without a word."""
    model, examples = small_model(kind), make_examples()
    (pack,) = packs_of(examples, packing=True)
    more: dict[str, Any] = (
        {"attention_mask": torch.ones_like(pack.input_ids), "use_cache": False}
        if trap == "mask of ones"
        else {}
    )
    with torch.no_grad():
        leaky = model(input_ids=pack.input_ids, position_ids=pack.position_ids, **more).logits
        right = trained_logits(model, pack)
    leaky = leaky[pack.targets != IGNORE]
    assert (leaky - right).abs().max() > 1_000 * TOLERANCE


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_loss_and_gradient_do_not_depend_on_layout_or_passes(kind: str, small_model: Build) -> None:
    examples = make_examples()
    results = {}
    for packing in (True, False):
        for per_pass in (1, 100, 10_000):
            model = small_model(kind).double()
            packs = packs_of(examples, packing=packing, per_pass=per_pass)
            total = sum(pack.num_trained for pack in packs)
            loss = torch.zeros((), dtype=torch.float64)
            for pack in packs:
                part = summed_loss(model, pack) / total
                part.backward()
                loss += part.detach()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
            results[packing, per_pass] = (loss, gradient, len(packs))
    want_loss, want_gradient, _ = results[False, 1]
    assert results[False, 1][2] == len(examples) and results[False, 10_000][2] == 1
    for loss, gradient, _ in results.values():
        torch.testing.assert_close(loss, want_loss, rtol=1e-6, atol=0)
        assert (gradient - want_gradient).norm() < 1e-6 * want_gradient.norm()


def test_the_loss_is_the_mean_over_trained_tokens_of_the_plain_definition(
    small_model: Build,
) -> None:
    model, examples = small_model("qwen2"), make_examples()
    (pack,) = packs_of(examples, packing=True)
    with torch.no_grad():
        got = summed_loss(model, pack)
        want = torch.zeros(())
        for example in examples:
            logits: Tensor = model(
                input_ids=torch.tensor([example.input_ids]), use_cache=False
            ).logits[0]
            for at in range(1, len(example)):
                if example.loss_mask[at]:
                    want -= logits[at - 1].log_softmax(-1)[example.input_ids[at]]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=0)


def test_targets_never_cross_from_one_example_into_the_next() -> None:
    examples = [
        Example((1, 2, 3), (False, True, True)),
        Example((4, 5), (False, True)),
        Example((6, 7, 8, 9), (False, False, True, True)),
    ]
    (pack,) = lay_out(examples, packing=True, row_length=12, tokens_per_pass=12, pad_id=0)
    i = IGNORE
    assert pack.input_ids.tolist() == [[6, 7, 8, 9, 1, 2, 3, 4, 5]]
    assert pack.targets.tolist() == [[i, 8, 9, i, 2, 3, i, 5, i]]
    assert pack.position_ids is not None
    assert pack.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1]]


def test_padding_of_a_packed_row_is_an_example_of_its_own_without_targets() -> None:
    examples = [Example((1, 2, 3), (False, True, True)), Example((4, 5), (False, True))]
    (pack,) = lay_out(examples, packing=True, row_length=4, tokens_per_pass=99, pad_id=0)
    assert pack.input_ids.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert pack.targets.tolist() == [[2, 3, IGNORE], [5, IGNORE, IGNORE]]
    assert pack.position_ids is not None
    assert pack.position_ids.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert pack.num_tokens == 5 and pack.num_trained == 3 and pack.fill == 5 / 6


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(40, 80))
def test_first_fit_decreasing_keeps_every_item_once_within_room(
    lengths: list[int], room: int
) -> None:
    bins = first_fit_decreasing(lengths, room)
    assert sorted(item for bin_ in bins for item in bin_) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in bin_) <= room for bin_ in bins)
    assert len(bins) <= 2 * sum(lengths) / room + 1  # no two bins are half empty
    # No bin could have taken the first item of a later one when that was placed.
    for early, late in pairwise(bins):
        first = lengths[late[0]]
        assert sum(lengths[i] for i in early if lengths[i] >= first) + first > room


def test_first_fit_decreasing_refuses_what_fits_nowhere() -> None:
    with pytest.raises(ValueError, match="item 1 of length 9 does not fit into 8"):
        first_fit_decreasing([3, 9], 8)


@pytest.mark.parametrize("packing", [True, False])
@given(lengths=st.lists(st.integers(2, 64), min_size=1, max_size=40), room=st.integers(1, 400))
def test_a_layout_holds_every_example_once_and_stays_within_its_passes(
    packing: bool, lengths: list[int], room: int
) -> None:
    examples = make_examples(tuple(lengths))
    packs = packs_of(examples, packing=packing, per_pass=room)
    assert sum(pack.num_tokens for pack in packs) == sum(lengths)
    assert sum(pack.num_trained for pack in packs) == sum(e.num_trained for e in examples)
    for pack in packs:
        assert pack.input_ids.numel() <= room or len(pack.input_ids) == 1
        assert int((pack.targets != IGNORE).sum()) == pack.num_trained

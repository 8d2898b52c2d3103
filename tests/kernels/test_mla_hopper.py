"""The Hopper launcher, as far as it can be held to its word without a GPU."""

import ctypes
import re
from typing import Any

import pytest
import torch
from r1kit.kernels import mla_hopper
from r1kit.kernels.cuda_build import SOURCES
from r1kit.kernels.mla_cache import CacheLayout
from r1kit.kernels.mla_decode import DecodeInputs
from r1kit.kernels.mla_hopper import MAX_CHUNKS, Params, geometry

COMMON = (SOURCES / "common.cuh").read_text(encoding="utf-8")
KINDS: dict[str, Any] = {"i64": ctypes.c_int64, "int": ctypes.c_int, "float": ctypes.c_float}


def fields(struct: str) -> list[tuple[str, Any]]:
    """Name and ctypes type of every field of a struct of common.cuh; pointers are addresses."""
    (body,) = re.findall(rf"struct {struct} {{\n(.*?)\n}};", COMMON, re.DOTALL)
    found = []
    for line in body.splitlines():
        declared = re.fullmatch(r"\s*(?:const )?(\w+)(\*?) (\w+)(?:\[(\d+)\])?;(?:\s*//.*)?", line)
        assert declared is not None, line
        kind, pointer, name, count = declared.groups()
        plain = ctypes.c_uint64 if pointer else KINDS[kind]
        found.append((name, plain * int(count) if count else plain))
    return found


def test_params_are_those_of_the_kernels() -> None:
    """Field by field: a launch copies these bytes."""
    assert list(Params._fields_) == fields("Params")
    assert ctypes.sizeof(Params) % 8 == 0


def test_the_most_pieces_of_a_sequence_are_those_of_the_kernels() -> None:
    assert re.findall(r"constexpr int MAX_CHUNKS = (\d+);", COMMON) == [str(MAX_CHUNKS)]


def shaped(batch: int, query_tokens: int, heads: int, *, invariant: bool = False) -> DecodeInputs:
    """Inputs without numbers."""

    def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    return DecodeInputs(
        empty(batch, query_tokens, heads, 512), empty(batch, query_tokens, heads, 64),
        empty(4, 64, 576), CacheLayout.BF16, empty(batch, 9, dtype=torch.int32),
        empty(batch, dtype=torch.int32), 1.0, invariant=invariant,
    )  # fmt: skip


@pytest.mark.parametrize("num_sms", [132, 114, 78, 8])
@pytest.mark.parametrize("batch", [1, 300])
def test_all_blocks_of_a_launch_are_resident(batch: int, num_sms: int) -> None:
    """They wait for each other, one on each multiprocessor, and hold all query rows."""
    for heads in range(1, 129):
        for query_tokens in range(1, 5):
            plan = geometry(shaped(batch, query_tokens, heads), num_sms)
            assert plan.row_blocks * plan.parts <= num_sms
            assert plan.parts >= 1
            spare = plan.row_blocks * plan.rows - heads * query_tokens
            assert 0 <= spare < plan.rows
            invariant = geometry(shaped(batch, query_tokens, heads, invariant=True), num_sms)
            assert invariant.slots == batch * MAX_CHUNKS


def test_few_rows_are_not_padded_to_64() -> None:
    rows = {heads: geometry(shaped(1, 1, heads), 132).rows for heads in (1, 16, 17, 32, 33, 128)}
    assert rows == {1: 16, 16: 16, 17: 32, 32: 32, 33: 64, 128: 64}


@pytest.mark.parametrize("block_size", [16, 32, 48, 64, 80, 128, 192])
def test_a_box_divides_its_block(block_size: int) -> None:
    box = mla_hopper._box_tokens(block_size)
    assert box in (16, 32, 64) and block_size % box == 0
    assert box == 64 or block_size % (2 * box) != 0

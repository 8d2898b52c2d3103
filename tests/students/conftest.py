"""What the students' tests share: a byte tokenizer, very small models, and a few conversations."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    from r1kit.teacher.tiny.tokenizer import build_tokenizer

    return build_tokenizer()


@pytest.fixture
def small_model() -> Callable[[str], PreTrainedModel]:
    """A Qwen2 or Llama of two layers, 32 wide, with weights large enough to make leaks visible."""

    def build(kind: str) -> PreTrainedModel:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

        make: dict[str, Any] = {
            "qwen2": lambda **kw: Qwen2ForCausalLM(Qwen2Config(**kw)),
            "llama": lambda **kw: LlamaForCausalLM(LlamaConfig(**kw)),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: PreTrainedModel = make[kind](
                vocab_size=272,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                tie_word_embeddings=True,
                initializer_range=0.2,
            )
        model.float().eval()
        return model

    return build


def sums(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations about sums, of many lengths."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        a, b = rng.randrange(10 ** rng.randrange(1, 5)), rng.randrange(100)
        reply = f"<think>\n{a}+{b}={a + b}\n</think>\n\\boxed{{{a + b}}}"
        turns = [
            {"role": "user", "content": f"What is {a} plus {b}?"},
            {"role": "assistant", "content": reply},
        ]
        rows.append({"id": f"row-{i}", "messages": turns, "problem_id": f"p{i}", "source": "t"})
    return rows


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Write conversations as JSONL and return the path."""

    def write(rows: list[dict[str, Any]], name: str = "train.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_sums() -> Callable[..., list[dict[str, Any]]]:
    return sums

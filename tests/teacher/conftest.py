"""What the engine tests share: very small random models, no weight at its trivial value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SHARED: dict[str, Any] = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
MLA: dict[str, Any] = {
    "moe_intermediate_size": 16,
    "num_key_value_heads": 4,
    "n_shared_experts": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "kv_lora_rank": 24,
    "q_lora_rank": 20,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "qk_nope_head_dim": 6,
    "first_k_dense_replace": 1,
}


def build(kind: str, **config: Any) -> Any:
    """A `deepseek`, `llama` or `qwen` in float32. Norms, biases and router biases are random, too:
    left at one and zero, they would hide a mistake in what is folded into what.
    """
    import torch
    import transformers as hf

    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "deepseek": (hf.DeepseekV3Config, hf.DeepseekV3ForCausalLM, SHARED | MLA),
        "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, SHARED),
        "qwen": (hf.Qwen2Config, hf.Qwen2ForCausalLM, SHARED),
    }
    make_config, make_model, common = kinds[kind]
    model = make_model(make_config(**common | config)).float().eval().requires_grad_(False)
    rng = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        weight.copy_(torch.randn(weight.shape, generator=rng) / 5 + ("norm" in name))
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn(buffer.shape, generator=rng) / 5)
    return model


def save(model: Any, directory: Path) -> Path:
    """Write a model and the byte tokenizer where the engine can load them."""
    from r1kit.teacher.tiny.tokenizer import build_tokenizer

    model.save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def build_tiny() -> Callable[..., Any]:
    return build


@pytest.fixture(scope="session")
def save_tiny() -> Callable[[Any, Path], Path]:
    return save


@pytest.fixture(scope="session")
def tiny_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model directories, one for each way in which the engine runs a model."""
    root = tmp_path_factory.mktemp("models")
    models = {
        "latent": build("deepseek"),
        "unfolded": build("deepseek", kv_lora_rank=96),
        "one-group": build("llama"),
        "groups": build("qwen", head_dim=80, num_key_value_heads=4),
        "fallback": build("llama", hidden_act="gelu"),
    }
    return {name: save(model, root / name) for name, model in models.items()}

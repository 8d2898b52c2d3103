"""The lean loop against transformers, number by number, and what it leaves to transformers.

transformers computes norms, routers and rotations in float32 whatever the model's type. To compare
in float64, `StayDouble` keeps it from narrowing; the cosines are float32, and the same, in both.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from r1kit.teacher.engine import Prompt, Request, Response, Sampling, parse_response
from r1kit.teacher.lean.cache import CHUNK, PAGE
from r1kit.teacher.lean.deepseek import DeepseekLean
from r1kit.teacher.lean.llama import LlamaLean
from r1kit.teacher.lean.model import Chunk, LeanDecoder, LeanModel, NotLean
from r1kit.teacher.tiny import model_path
from r1kit.teacher.tiny.tokenizer import build_tokenizer
from r1kit.teacher.torch_engine import TorchEngine
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

Build = Callable[..., Any]
LENGTH = 2 * PAGE + CHUNK + 9
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = YARN | {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "latent cached": ("deepseek", {}),
    "latent wider than hidden": ("deepseek", {"kv_lora_rank": 96}),
    "no query rank": ("deepseek", {"q_lora_rank": None}),
    "mla biases": ("deepseek", {"attention_bias": True}),
    "mla biases, no query rank": ("deepseek", {"attention_bias": True, "q_lora_rank": None}),
    "mla biases, wide latent": ("deepseek", {"attention_bias": True, "kv_lora_rank": 96}),
    "rotated halves": ("deepseek", {"rope_interleave": False}),
    "weights not normalised": ("deepseek", {"norm_topk_prob": False}),
    "two shared experts": ("deepseek", {"n_shared_experts": 2}),
    "all groups open": ("deepseek", {"topk_group": 4}),
    "mla tied": ("deepseek", {"tie_word_embeddings": True}),
    "mla yarn": ("deepseek", {"rope_parameters": YARN}),
    "mla yarn as R1": (
        "deepseek",
        {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
    ),
    "llama": ("llama", {}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama wide heads": ("llama", {"head_dim": 160}),
    "llama linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama yarn": ("llama", {"rope_parameters": YARN}),
    "odd vocabulary": ("llama", {"vocab_size": 275}),
    "qwen": ("qwen", {}),
    "qwen one key head": ("qwen", {"num_key_value_heads": 1}),
    "qwen all key heads": ("qwen", {"num_key_value_heads": 4}),
    "qwen wide groups": ("qwen", {"head_dim": 80, "num_key_value_heads": 4}),
}


class StayDouble(TorchFunctionMode):
    """Makes every narrowing of a float64 tensor a no-op."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        casts = (torch.Tensor.to, torch.Tensor.type, torch.Tensor.float)
        if func in casts and args[0].dtype == torch.float64:
            return args[0]
        if func is torch.nn.functional.softmax:
            named.pop("dtype", None)
        return func(*args, **named)


def theirs(model: Any, ids: list[int]) -> Tensor:
    """transformers' logits (L, V) in float64; the model is float64 afterwards."""
    rotary = model.model.rotary_emb
    frequencies = rotary.inv_freq.clone()
    if model.config.model_type == "deepseek_v3":
        model.set_experts_implementation("eager")  # the grouped product knows no float64
    model.double()
    rotary.inv_freq = frequencies
    with torch.no_grad(), StayDouble():
        logits: Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def lean(model: Any, length: int = 256, **more: Any) -> LeanModel:
    kind = DeepseekLean if model.config.model_type == "deepseek_v3" else LlamaLean
    return kind(model, dtype=torch.float64, length=length, **more)


def ours(model: LeanModel, texts: Sequence[list[int]], num_read: Sequence[int]) -> list[Tensor]:
    """The lean logits of several texts side by side: of each, so many tokens are read as a prompt,
    and the others decoded.
    """
    decoder = LeanDecoder(model, len(texts))
    decoder.reserve(max(map(len, texts)))
    chunks = [
        Chunk(row, at, ids[at : min(at + CHUNK, read)], at + CHUNK >= read)
        for row, (ids, read) in enumerate(zip(texts, num_read, strict=True))
        for at in range(0, read, CHUNK)
    ]
    found: list[list[Tensor]] = [[] for _ in texts]
    at_R = torch.tensor([*num_read, *[0] * (decoder.rows - len(texts))])
    with torch.inference_mode():
        for first in range(0, len(chunks), decoder.chunks):
            decoder.prefill(chunks[first : first + decoder.chunks])
        while active := [row for row, ids in enumerate(texts) if at_R[row] < len(ids)]:
            token_R = torch.zeros_like(at_R)
            for row in active:
                token_R[row] = texts[row][at_R[row]]
            logits_RV = decoder.decode(token_R, at_R, active, int(at_R[active].max()) + 1)
            for row in active:
                found[row].append(logits_RV[row].clone())
                at_R[row] += 1
    return [torch.stack(rows) for rows in found]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These products are too small to be shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_ids(length: int, seed: int = 0) -> list[int]:
    rng = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(0, 256, (length,), generator=rng).tolist()
    return ids


def steps(num: int, digits: int) -> float:
    """So many roundings to a number of so many binary digits."""
    return float(num * 2.0**-digits)


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_transformers_own_across_chunks_and_pages(
    name: str, build_tiny: Build
) -> None:
    kind, config = CASES[name]
    model, ids = build_tiny(kind, **config), random_ids(LENGTH)
    ways = [{"absorbed": True}, {"absorbed": False}] if kind == "deepseek" else [{}]
    lean_models = [lean(model, **way) for way in ways]
    want_LV = theirs(model, ids)
    for lean_model in lean_models:
        # Nine products of at most 1280 terms; where cosines are scaled, transformers rounds them to
        # float32 once more, for a query and a key in each of two layers.
        roundings = steps(9 * 1280, 53) + steps(4, 24) * (lean_model.turn_scale != 1)
        num_read = [0, CHUNK - 1, CHUNK, PAGE - 3, PAGE + 1, 2 * PAGE - 1, LENGTH - 1]
        texts = [ids[: read + 18] for read in num_read]
        for read, text, got_XV in zip(
            num_read, texts, ours(lean_model, texts, num_read), strict=True
        ):
            want_XV = want_LV[read : len(text)]
            bound = roundings * want_LV.abs().max().item()
            torch.testing.assert_close(got_XV, want_XV, rtol=0, atol=bound)


def test_the_packaged_teacher_equals_transformers_own() -> None:
    folder = model_path("tiny-r1")
    assert folder is not None
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = random_ids(40)
    narrow = DeepseekLean(model, dtype=torch.float32, length=64)
    wide = [lean(model), lean(model, absorbed=True)]
    want_LV = theirs(model, ids)
    largest = want_LV.abs().max().item()
    for lean_model in wide:
        (got_XV,) = ours(lean_model, [ids], [20])
        torch.testing.assert_close(
            got_XV, want_LV[20:], rtol=0, atol=steps(17 * 1168, 53) * largest
        )
    # float32: seventeen products of up to 1168 terms, whose roundings add up like a random walk.
    (got_XV,) = ours(narrow, [ids], [20])
    torch.testing.assert_close(
        got_XV.double(), want_LV[20:], rtol=0, atol=steps(17 * 34, 24) * largest
    )


def test_what_stood_in_the_cache_before_is_not_seen(build_tiny: Build) -> None:
    model = lean(build_tiny("deepseek"))
    ids = random_ids(LENGTH)
    (want_XV,) = ours(model, [ids], [LENGTH - 3])
    decoder = LeanDecoder(model, 1)
    decoder.reserve(LENGTH)
    for pages in decoder.cache.keys:
        pages.fill_(1e3)
    cache_of = model.new_cache
    model.new_cache = lambda rows: decoder.cache  # type: ignore[method-assign]
    (got_XV,) = ours(model, [ids], [LENGTH - 3])
    model.new_cache = cache_of  # type: ignore[method-assign]
    assert torch.equal(got_XV, want_XV)


@pytest.mark.parametrize("kind", ["deepseek", "llama", "qwen"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_every_row_computes_the_same_bits_whatever_the_batch_size(
    kind: str, dtype: torch.dtype, num_threads: int, build_tiny: Build
) -> None:
    torch.set_num_threads(num_threads)
    model = build_tiny(kind, vocab_size=273)
    make = DeepseekLean if kind == "deepseek" else LlamaLean
    lean_model = make(model, dtype=dtype, length=64)
    for rows in (3, 5, 6, 7, 11, 17):
        first, *others = ours(lean_model, [random_ids(20)] * rows, [17] * rows)
        assert all(torch.equal(first, other) for other in others)


NOT_LEAN: dict[str, tuple[str, dict[str, Any], str]] = {
    "activation": ("llama", {"hidden_act": "gelu"}, "activation gelu"),
    "dynamic rope": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}},
        "rotary embedding of type dynamic",
    ),
    "sliding": (
        "qwen",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
        "sliding-window attention",
    ),
    "many experts": ("deepseek", {"n_routed_experts": 64}, "64 experts are more than 32"),
    "odd width": ("deepseek", {"v_head_dim": 5, "num_attention_heads": 1,
                  "num_key_value_heads": 1}, "not a multiple of 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_LEAN)
def test_what_is_not_lean_falls_back_to_transformers_and_says_so(
    name: str,
    build_tiny: Build,
    save_tiny: Callable[[Any, Path], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kind, config, says = NOT_LEAN[name]
    model = build_tiny(kind, **config)
    with pytest.raises(NotLean, match=says):
        lean(model)
    seen: dict[int, Tensor] = {}
    request = Request(Prompt.user("x" * 30), Sampling(0.0, max_tokens=8), 0, 0)
    with (
        caplog.at_level(logging.INFO),
        TorchEngine(save_tiny(model, tmp_path / name), batch_size=2, lanes=1) as engine,
    ):
        assert engine.path == "transformers"
        engine.watch = lambda _, number, logits: seen.update({number: logits})
        (response,) = engine.answer([request])
    assert f"{says}: one row at a time through transformers" in caplog.text
    assert f"{name}: transformers" in caplog.text
    check_greedy(model, request, response, seen)


def check_greedy(model: Any, request: Request, response: Response, seen: dict[int, Tensor]) -> None:
    """What was written is what the watched logits say, and those are transformers' own."""
    tokenizer = build_tokenizer()
    wrote = [int(seen[number].argmax()) for number in sorted(seen)]
    text = tokenizer.decode(wrote, skip_special_tokens=True)
    assert parse_response(response).text == text
    content = request.prompt.messages[0].content
    prompt: list[int] = tokenizer(f"<|begin|><|user|>{content}<|assistant|>").input_ids
    with torch.no_grad():
        logits_LV = model(torch.tensor([prompt + wrote]), use_cache=False).logits[0]
    for number, row_V in seen.items():
        want_V = logits_LV[len(prompt) - 1 + number]
        atol = steps(9 * 24, 24) * want_V.abs().max().item()
        torch.testing.assert_close(row_V, want_V, rtol=0, atol=atol)


def test_another_dtype_falls_back_and_the_lean_paths_are_named(
    tiny_dirs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    paths = {}
    for name, folder in tiny_dirs.items():
        with TorchEngine(folder, batch_size=1, lanes=1) as engine:
            paths[name] = engine.path
    assert paths == {
        "latent": "lean:deepseek_v3",
        "unfolded": "lean:deepseek_v3",
        "one-group": "lean:llama",
        "groups": "lean:llama",
        "fallback": "transformers",
    }
    with TorchEngine(tiny_dirs["latent"], batch_size=1, dtype=torch.bfloat16) as engine:
        assert engine.path == "transformers"
    assert "the lean loop computes in float32, not torch.bfloat16" in caplog.text

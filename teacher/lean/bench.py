"""Tokens per second of the torch engine beside transformers' own `generate`, on the same problems.

    python -m r1kit.teacher.lean.bench [--device cuda] [--rounds 2]

Both draw at temperature 0.6 with at most 112 new tokens in float32; only tokens up to a reply's end
are counted. `generate` is timed at its better batch size of two. The rounds alternate, so that a
busy machine slows both.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..engine import Prompt, Request, Sampling, parse_response
from ..tiny import TINY_R1, model_path
from ..tiny.card import SAMPLING, THINKING
from ..tiny.families import FAMILIES, generate
from ..torch_engine import TorchEngine

PER_FAMILY = 77
LIMIT = 112
BATCH_SIZES = (64, 128)


def statements() -> list[str]:
    """Held-out problems of every family."""
    return [
        problem.statement
        for family in FAMILIES
        for problem in generate(family, PER_FAMILY, 5, "test")
    ]


def weights() -> Path:
    """Where tiny-r1 lies."""
    path = model_path(TINY_R1)
    assert path is not None, "it ships with the package"
    return path


def time_ours(problems: list[str], device: str) -> float:
    """Tokens per second of `TorchEngine`, warmed up."""
    sampling = Sampling(SAMPLING.temperature, SAMPLING.top_p, LIMIT)
    requests = [Request(Prompt.user(text, prefill=THINKING), sampling, 0, 0) for text in problems]
    with TorchEngine(weights(), device=device) as engine:
        list(engine.answer(requests[:32]))
        started = time.perf_counter()
        tokens = sum(parse_response(each).completion_tokens for each in engine.answer(requests))
        return tokens / (time.perf_counter() - started)


def time_generate(problems: list[str], device: str, batch_size: int) -> float:
    """Tokens per second of transformers' `generate`, in batches of problems padded on the left."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = weights()
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    tokenizer.padding_side = "left"
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model = model.to(device).eval()
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        + THINKING
        for text in problems
    ]
    options = {"do_sample": True, "temperature": SAMPLING.temperature, "top_p": 1.0, "top_k": 0}
    tokens, started = 0, time.perf_counter()
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        ids = tokenizer(part, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            whole = model.generate(**ids.to(device), max_new_tokens=LIMIT, **options)
        written = whole[:, ids.input_ids.shape[1] :]
        tokens += int((written != tokenizer.pad_token_id).sum())
    return tokens / (time.perf_counter() - started)


def main() -> None:
    """Time both in turns, and print a line per round."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    problems = statements()
    for number in range(1, options.rounds + 1):
        theirs = max(time_generate(problems, options.device, size) for size in BATCH_SIZES)
        ours = time_ours(problems, options.device)
        sys.stdout.write(
            f"round {number}: torch engine {ours:,.0f} tokens/s, generate {theirs:,.0f}, "
            f"ratio {ours / theirs:.1f}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()

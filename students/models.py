"""Students: the two built-in ones, and any safetensors model by path or hub id.

`tiny-qwen` and `tiny-llama` are about 0.8M parameters over bytes. They are random until trained,
drawn from a seed of their own: a base pretrained on other text would cost more to ship than the two
minutes of training that it saves. Code that comes with a model is never run, and pickled weights
never read.
"""

import copy
import difflib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import KitError
from .settings import BUILT_IN, is_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TINY_SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


class ModelError(KitError):
    """A model cannot be had. The message names what was tried, and what would do."""


def build_model(name: str, *, seed: int = 0) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A student with float32 weights on the CPU, in training mode, and its tokenizer.

    Args:
        name: `tiny-qwen`, `tiny-llama`, a directory, or a hub id.
        seed: of random weights; the global generator is left as it was.

    Raises:
        ModelError: there is no such model, or it lacks safetensors, a tokenizer or a template.
    """
    if name in BUILT_IN:
        model, tokenizer = _random(name, seed)
    else:
        model, tokenizer = _load(_located(name))
    if not tokenizer.chat_template:
        raise ModelError(
            f"{name}: its tokenizer has no chat template, so a conversation cannot be written the"
            " way the model is used; take the instruct version, or put chat_template.jinja beside"
            " its tokenizer.json"
        )
    model.train()
    return model, tokenizer


def save_student(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    out_dir: Path,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write config, safetensors, tokenizer and template, so that the directory appears whole.

    What an earlier call left in `out_dir` is replaced. The model in memory is left as it is.

    Raises:
        ModelError: `out_dir` holds something that is no model.
    """
    if model.dtype != dtype:
        model = copy.deepcopy(model).to(dtype)  # type: ignore[arg-type]
    with_partial(out_dir, lambda partial: write_student(model, tokenizer, partial))


def write_student(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", into: Path
) -> None:
    """Write a model's files, in the type it has, into a directory that exists."""
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)


def stop_at(model: "PreTrainedModel", end_id: int) -> None:
    """Let generation stop at the token that was trained as a reply's end."""
    config = model.generation_config
    assert config is not None
    known = config.eos_token_id
    ids = [] if known is None else [known] if isinstance(known, int) else list(known)
    if end_id not in ids:
        config.eos_token_id = [*ids, end_id]


def with_partial(out_dir: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill `OUT.partial`, then put it in the place of `out_dir`.

    Whatever `write` raises removes the partial directory again; `out_dir` is untouched until then.
    """
    check_replaceable(out_dir)
    partial, old = (out_dir.with_name(f"{out_dir.name}.{end}") for end in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
        _sync(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if out_dir.exists():
        out_dir.rename(old)
    partial.rename(out_dir)
    shutil.rmtree(old, ignore_errors=True)


def check_replaceable(out_dir: Path) -> None:
    """Refuse to replace a directory that is no model.

    Raises:
        ModelError: it holds files, and none of them is a model's config.json.
    """
    if not out_dir.exists() or (out_dir / "config.json").is_file():
        return
    if not out_dir.is_dir() or any(out_dir.iterdir()):
        raise ModelError(f"{out_dir}: holds something that is no model; choose another directory")


def _sync(directory: Path) -> None:
    """Wait until the files are on the disk, so that the rename cannot outrun them."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _random(name: str, seed: int) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A built-in student from random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from ..teacher.tiny.tokenizer import VOCAB_SIZE, build_tokenizer

    tokenizer = build_tokenizer()
    kinds: dict[str, tuple[Any, Any]] = {
        "tiny-qwen": (Qwen2Config, Qwen2ForCausalLM),
        "tiny-llama": (LlamaConfig, LlamaForCausalLM),
    }
    make_config, make_model = kinds[name]
    config = make_config(
        vocab_size=VOCAB_SIZE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **TINY_SHAPE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(config)
    return model.float(), tokenizer


def _located(name: str) -> str:
    """The model's directory if one is meant, else the hub id.

    Raises:
        ModelError: a path is meant and does not hold a model, or a built-in name is mistyped.
    """
    if not is_path(name):
        if "/" not in name and (close := difflib.get_close_matches(name, BUILT_IN, n=1)):
            raise ModelError(f"{name}: no such student; did you mean '{close[0]}'?")
        return name
    path = Path(name).expanduser()
    known = f"built in are {', '.join(BUILT_IN)}; anything else is a path or a hub id"
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise ModelError(f"{path}: {found}, a model is a directory with config.json; {known}")
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: has no config.json, so it holds no model; {known}")
    if not any(path.glob("*.safetensors")):
        others = ", ".join(sorted(f.name for f in path.glob("*.bin"))) or "no weights at all"
        raise ModelError(f"{path}: has no *.safetensors (found {others}); pickles are never read")
    if not any((path / file).is_file() for file in TOKENIZER_FILES):
        raise ModelError(
            f"{path}: has no tokenizer; one of {', '.join(TOKENIZER_FILES)} must lie beside the"
            " weights"
        )
    return str(path)


def _load(name: str) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A pretrained model and its tokenizer, from a directory or the hub."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        tried = "the directory" if is_path(name) else "it is no directory, and as a hub id it"
        raise ModelError(
            f"{name}: {tried} cannot be loaded (built in: {', '.join(BUILT_IN)}):"
            f" {_first_lines(error)}"
        ) from error
    return model, tokenizer


def _first_lines(error: Exception) -> str:
    """The start of an error's text, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"

"""Loading a checkpoint directory: the model, its tokenizer, its ends, its revision."""

import hashlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..engine import EngineError
from .deepseek import DeepseekLean
from .fallback import TransformersDecoder
from .llama import LlamaLean
from .model import Decoder, LeanDecoder, LeanModel, NotLean
from .text import Text

log = logging.getLogger(__name__)

LEAN: dict[str, tuple[str, Callable[..., LeanModel]]] = {
    "deepseek_v3": ("lean:deepseek_v3", DeepseekLean),
    "llama": ("lean:llama", LlamaLean),
    "qwen2": ("lean:llama", LlamaLean),
}
HUB_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json",
    "*token*", "*.jinja", "vocab.json", "merges.txt",
)  # fmt: skip
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
REVISION_FILES = ("*.safetensors", "config.json", "generation_config.json", "*token*", "*.jinja")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to decode.

    Attributes:
        new_decoder: a decoder of so many rows over the shared weights.
        path: which code runs it: `lean:...` or `transformers`.
        max_length: positions the model has.
        end_ids: tokens that end a reply.
    """

    new_decoder: Callable[[int], Decoder]
    text: Text
    path: str
    max_length: int
    end_ids: list[int]
    vocabulary: int


def locate(model: str | Path) -> Path:
    """The directory of a model, downloaded first where a Hugging Face id is meant.

    Only data is downloaded: safetensors, configurations, the tokenizer.

    Raises:
        EngineError: there is no such directory, and no such id can be had.
    """
    directory = Path(model).expanduser()
    if (directory / "config.json").is_file():
        return directory
    if directory.exists():
        raise EngineError(f"{model}: no config.json; a model is a directory with config.json")
    if not isinstance(model, str) or not HUB_ID.fullmatch(model):
        raise EngineError(
            f"{model}: no such directory; a model is tiny-r1, a directory with config.json, "
            "or a Hugging Face id such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    from huggingface_hub import snapshot_download

    try:
        found = Path(snapshot_download(model, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the network's errors come from whichever HTTP library the hub uses
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise EngineError(
            f"{model}: no such directory, and as a Hugging Face id it cannot be had ({said}); "
            "is the id right, and the network there? Else copy the model here and give its path"
        ) from error
    if not (found / "config.json").is_file():
        raise EngineError(f"{model}: has no config.json on Hugging Face, so it is no model")
    return found


def load(directory: Path, *, max_length: int | None, dtype: torch.dtype, device: str) -> Loaded:
    """Load a checkpoint from safetensors, never running code that comes with it.

    Raises:
        EngineError: it cannot be loaded, or has no chat template; says what is missing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise EngineError(
            f"{directory}: the model does not load: {said}; "
            "it needs whole *.safetensors, config.json and a tokenizer"
        ) from error
    model, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        raise EngineError(
            f"{directory}: {len(missing)} weights are in none of its *.safetensors, such as "
            f"{missing[0]}; copy the model again"
        )
    if tokenizer.chat_template is None:
        raise EngineError(f"{directory}: the tokenizer has no chat template (chat_template.jinja)")
    model = model.to(device).eval().requires_grad_(False)
    vocabulary = model.get_input_embeddings().num_embeddings
    has = int(getattr(model.config, "max_position_embeddings", None) or 1 << 20)
    length = min(has, max_length or has)
    path, new_decoder = _choose(model, dtype, length)
    return Loaded(
        new_decoder,
        Text(tokenizer, vocabulary),
        path,
        length,
        _end_ids(model, tokenizer),
        vocabulary,
    )


def _choose(model: Any, dtype: torch.dtype, length: int) -> tuple[str, Callable[[int], Decoder]]:
    """The lean loop where it knows the model, else transformers' own forward pass."""
    kind = model.config.model_type
    try:
        if kind not in LEAN:
            raise NotLean(f"no lean forward pass for {kind}")
        if dtype not in (torch.float32, torch.float64):
            raise NotLean(f"the lean loop computes in float32, not {dtype}")
        path, build = LEAN[kind]
        lean = build(model, dtype=dtype, length=length)
    except NotLean as reason:
        log.warning("%s: one row at a time through transformers", reason)
        return "transformers", lambda rows: TransformersDecoder(model, rows)
    return path, lambda rows: LeanDecoder(lean, rows)


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token that one of the three configurations calls an end of sequence."""
    ends: set[int] = set()
    for found in (
        getattr(model.generation_config, "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        ends.update(found if isinstance(found, list) else [] if found is None else [found])
    return sorted(ends)


def revision(directory: Path) -> str:
    """The first 12 hex digits of a SHA-256 over the files that decide what the model says."""
    digest = hashlib.sha256()
    names = {path.name for pattern in REVISION_FILES for path in directory.glob(pattern)}
    for name in sorted(names):
        with (directory / name).open("rb") as file:
            digest.update(f"{name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()[:12]

"""The embedded teacher: problem families, tokenizer, training, and the weights of tiny-r1."""

from pathlib import Path

TINY_R1 = "tiny-r1"


def model_path(name: str) -> Path | None:
    """The directory of a model that ships with the package; None where there is none so named."""
    return Path(__file__).parent / name if name == TINY_R1 else None

"""Rebuild tiny-r1 from nothing: train, score on held-out problems, write weights and card."""

import shutil
from pathlib import Path

import torch

from ... import KitError
from .card import Measured, measure, write_card
from .train import Progress, TinySettings, save, train


class RebuildError(KitError):
    """tiny-r1 cannot be rebuilt here. The message says what is in the way."""


def rebuild(
    out_dir: Path,
    settings: TinySettings,
    *,
    device: str,
    per_family: int,
    progress: Progress | None = None,
) -> Measured:
    """Train tiny-r1 into `out_dir`, which appears whole or not at all.

    Args:
        device: `auto` takes a GPU where there is one.
        per_family: held-out problems of each family for the card's scores.

    Raises:
        RebuildError: `out_dir` exists or cannot be made, or the device is not there.
    """
    if out_dir.exists():
        raise RebuildError(f"{out_dir} exists already; name a directory that does not")
    if device != "auto" and not device.startswith(("cpu", "cuda")):
        raise RebuildError(f"device must be auto, cpu or cuda, got {device!r}")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RebuildError(f"device {device}: torch sees no GPU here; --device cpu works, slowly")
    partial = out_dir.with_name(f"{out_dir.name}.partial")
    try:  # now, not after hours of training
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise RebuildError(f"{out_dir}: cannot be made: {error.strerror}") from error
    model, facts = train(settings, device=device, progress=progress)
    save(model.cpu(), facts, partial)
    measured = measure(partial, per_family)
    write_card(partial, measured)
    partial.rename(out_dir)
    return measured

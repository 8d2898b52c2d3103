"""Train stage: the student learns from the kept traces.

Reads   dataset/train.parquet
Writes  student_before/, the untrained student, so that both can be scored in the same way
        student/, the trained one, which starts from exactly those weights
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..students.settings import SftSettings
from ..teacher.engines import quieten_transformers
from .console import Bar
from .context import Context
from .settings import Recipe


def run(context: Context) -> dict[str, Any]:
    """Make the student, train it, and return what the training has to say."""
    workspace, settings = context.workspace, context.recipe.train
    with context.console.bar("train", None, "steps") as bar:
        context.parts.make_student(context.recipe, workspace.student_before)
        from_there = settings.model_copy(update={"model": str(workspace.student_before)})
        result = context.parts.train(
            from_there, workspace.dataset / "train.parquet", workspace.student, bar
        )
    weights = {
        "student_before": weights_digest(workspace.student_before),
        "student_after": weights_digest(workspace.student),
    }
    return {**result, "weights": weights}


def make_student(recipe: Recipe, out_dir: Path) -> None:
    """Write the untrained student, whole or not at all.

    Raises:
        KitError: there is no such model.
    """
    from ..students.models import build_model, save_student

    quieten_transformers()
    model, tokenizer = build_model(recipe.train.model, seed=recipe.train.seed)
    save_student(model, tokenizer, out_dir)


def train_student(
    settings: SftSettings, dataset: Path, out_dir: Path, bar: Bar
) -> Mapping[str, Any]:
    """Train on a data set; the student appears whole in `out_dir`.

    Returns:
        Steps, tokens and losses; under `metrics` the file that holds the curve, by its path below
        the run's directory.
    """
    from ..students.sft import Progress, train

    quieten_transformers()

    def progress(now: Progress) -> None:
        note = f"loss {now.loss:.3f}, {now.tokens_per_s:,.0f} tokens/s"
        bar.to(now.step, total=now.steps, note=note)

    result = train(settings, dataset, out_dir, progress=progress)
    return {
        "examples": result.examples,
        "steps": result.steps,
        "tokens": result.tokens,
        "first_loss": round(result.first_loss, 4),
        "last_loss": round(result.last_loss, 4),
        "loop_seconds": round(result.seconds, 2),
        "parameters": result.parameters,
        "device": result.device,
        "dtype": result.dtype,
        "notes": result.notes,
        "metrics": f"{out_dir.name}/metrics.jsonl",
    }


def weights_digest(directory: Path) -> str:
    """A digest of a model's weights: what tells a student from the same student trained again."""
    total = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]

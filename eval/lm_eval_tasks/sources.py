"""Data sets that lm-eval cannot load by a name alone: C-Eval's 52 parts, DROP with its examples.

lm-eval calls these with the task's metadata and its `dataset_kwargs`.
"""

import random
from typing import Any

import yaml

from .choices import SUBJECTS

SHOTS = 3
DRAWN_WITH = 42
"""The seed of simple-evals' drop_eval.py."""


def ceval(*, val: str | None = None, **_metadata: Any) -> Any:
    """C-Eval's `val` split, with a column `subject`.

    Args:
        val: a JSONL file with all subjects; None takes the 52 parts from the Hub.
    """
    import datasets

    if val is not None:
        return datasets.load_dataset("json", data_files={"val": val})
    parts = []
    for subject in yaml.safe_load(SUBJECTS.read_text(encoding="utf-8")):
        part = datasets.load_dataset("ceval/ceval-exam", name=subject, split="val")
        parts.append(part.add_column("subject", [subject] * len(part)))
    return datasets.DatasetDict({"val": datasets.concatenate_datasets(parts)})


def drop(*, train: str, test: str, **_metadata: Any) -> Any:
    """DROP as simple-evals has it: each question with three drawn examples, in `shots`.

    Args:
        train: a JSONL file or URL with `context`, `completion`, which the examples come from.
        test: the same with `context` and `ref_text`, the accepted answers parted by `|`.
    """
    import datasets

    loaded = datasets.load_dataset("json", data_files={"train": train, "test": test})
    examples = loaded["train"]
    draw = random.Random(DRAWN_WITH)
    places = [draw.sample(range(len(examples)), SHOTS) for _ in range(len(loaded["test"]))]

    def with_shots(row: Any, place: int) -> dict[str, Any]:
        shots = [examples[at] for at in places[place]]
        return {
            "shots": [{name: shot[name] for name in ("context", "completion")} for shot in shots]
        }

    return datasets.DatasetDict({"test": loaded["test"].map(with_shots, with_indices=True)})

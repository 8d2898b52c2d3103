"""Supervised fine-tuning: a student learns the replies of a data set, token by token.

Reads   Parquet or JSONL rows with `id` and `messages`, see rows.py
Writes  OUT/  config.json, model.safetensors, the tokenizer and its template,
              metrics.jsonl  one line per step: step, loss, learning_rate, gradient_norm, tokens/s
              training.json  settings, counts and figures; written last

OUT appears whole: everything is written to `OUT.partial`, which is then renamed; stopped earlier,
nothing is left behind. The same data, settings, machine and thread count give the same weights:
steps are counted, never seconds.
"""

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import KitError, __version__
from .compute import Compute
from .examples import Example, Prepared, prepare
from .loss import summed_loss
from .models import (
    build_model,
    check_replaceable,
    save_student,
    stop_at,
    with_partial,
    write_student,
)
from .optim import Optimizer, make_optimizer
from .packing import Pack, lay_out
from .rows import read_rows
from .settings import SftSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SftError(KitError):
    """Training cannot go on. The message names the step and the examples it stopped at."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far training is: steps done of steps in all, and the last step's mean loss in nats.

    `tokens_per_s` counts real tokens, prompts included and padding not, since training began.
    """

    step: int
    steps: int
    loss: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class SftResult:
    """What a training run was.

    Attributes:
        examples: trained on in each epoch.
        notes: how many rows were left out, cut, or rendered otherwise by the template, by reason.
        tokens: real ones that went through the model, over all epochs.
        trained_tokens: of those, the ones the loss counted.
        fill: real tokens as a share of all positions that were computed.
        first_loss: mean over the trained tokens of the first tenth of the steps, in nats.
        last_loss: the same of the last tenth.
        seconds: of the training loop, loading and saving excluded.
    """

    model: str
    path: str
    parameters: int
    device: str
    dtype: str
    examples: int
    notes: dict[str, int]
    instances: dict[str, str]
    steps: int
    tokens: int
    trained_tokens: int
    fill: float
    first_loss: float
    last_loss: float
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Real tokens a second, prompts included."""
        return self.tokens / self.seconds


def train(
    settings: SftSettings,
    dataset: Path,
    out_dir: Path,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> SftResult:
    """Train a student on a data set and put it into `out_dir`, in place of an earlier one.

    Args:
        dataset: a Parquet or JSONL file, or a directory of them.
        progress: called after every step.

    Raises:
        KitError: model, data or hardware is not there, no example can be trained on, or the loss
            is no longer a number; `out_dir` is untouched.
    """
    check_replaceable(out_dir)
    rows = read_rows(dataset)
    compute = Compute.of(settings)
    model, tokenizer = build_model(settings.model, seed=settings.seed)
    prepared = prepare(tokenizer, rows, max_length=settings.max_length, too_long=settings.too_long)
    results: list[SftResult] = []

    def write(partial: Path) -> None:
        with (partial / "metrics.jsonl").open("w", encoding="utf-8") as metrics:
            run = _Run(settings, compute, model, tokenizer, prepared.examples)
            try:
                for line in run.steps():
                    metrics.write(json.dumps(line) + "\n")
                    metrics.flush()  # for whoever follows along
                    if progress is not None:
                        progress(run.progress())
            except _NotFinite as stop:
                raise _keep_last(stop, model, tokenizer, out_dir) from None
        result = run.result(prepared, out_dir)
        results.append(result)
        model.to("cpu", getattr(torch, settings.save_dtype))  # type: ignore[arg-type]
        stop_at(model, prepared.end_id)
        write_student(model, tokenizer, partial)
        _write_record(partial / "training.json", settings, result)

    with_partial(out_dir, write)
    return results[0]


def batches(
    examples: Sequence[Example], *, batch_size: int, epochs: float, seed: int
) -> Iterator[list[Example]]:
    """The batches of a whole training, in their seeded order; the last of an epoch may be short."""
    left = number_of_steps(len(examples), batch_size, epochs)
    rng = torch.Generator().manual_seed(seed)
    while left > 0:
        order = torch.randperm(len(examples), generator=rng).tolist()
        for start in range(0, len(order), batch_size):
            if left == 0:
                return
            yield [examples[i] for i in order[start : start + batch_size]]
            left -= 1


def number_of_steps(examples: int, batch_size: int, epochs: float) -> int:
    """Steps that so many epochs take; at least one."""
    return max(1, round(epochs * math.ceil(examples / batch_size)))


class _NotFinite(Exception):
    """A loss or gradient is not a number."""


class _Run:
    """One training loop, and what it counts on the way."""

    def __init__(
        self,
        settings: SftSettings,
        compute: Compute,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        examples: Sequence[Example],
    ) -> None:
        self.settings, self.compute, self.examples = settings, compute, examples
        self.model = model.to(compute.device)  # type: ignore[arg-type]
        self.num_steps = number_of_steps(len(examples), settings.batch_size, settings.epochs)
        self.optimizer: Optimizer = make_optimizer(
            self.model, settings, self.num_steps, muon_dtype=compute.muon_dtype
        )
        self.pad_id = int(tokenizer.pad_token_id or tokenizer.eos_token_id or 0)
        if settings.gradient_checkpointing:
            new = getattr(self.model, "activation_checkpointing_enable", None)  # its later name
            (new or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        self.losses: list[tuple[float, int]] = []
        self.tokens = self.positions = 0
        self.seconds = 0.0

    def steps(self) -> Iterator[dict[str, Any]]:
        """Train, yielding each step's line of metrics. Ends early only by raising."""
        settings = self.settings
        order = batches(
            self.examples,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            seed=settings.seed,
        )
        started = time.perf_counter()
        self.model.train()
        with self.compute.attention(self.model):
            for number, batch in enumerate(order):
                loss, norm, rate = self._step(number, batch)
                self.seconds = time.perf_counter() - started
                yield {
                    "step": number + 1,
                    "loss": loss,
                    "learning_rate": rate,
                    "gradient_norm": norm,
                    "tokens": self.tokens,
                    "tokens_per_s": round(self.tokens / self.seconds, 1),
                }

    def _step(self, number: int, batch: list[Example]) -> tuple[float, float, float]:
        """One batch, one move. Returns mean loss, gradient norm and learning rate."""
        packs = lay_out(
            batch,
            packing=self.settings.packing,
            row_length=self.settings.max_length,
            tokens_per_pass=self.settings.tokens_per_pass,
            pad_id=self.pad_id,
        )
        total = sum(pack.num_trained for pack in packs)
        loss = sum(self._backward(pack, total) for pack in packs)
        norm = self.optimizer.gradient_norm()
        figures = float(loss), float(norm)
        if not all(map(math.isfinite, figures)):
            self.optimizer.drop()
            names = ", ".join(example.id for example in batch[:8])
            more = f" and {len(batch) - 8} more" if len(batch) > 8 else ""
            raise _NotFinite(
                f"step {number + 1} of {self.num_steps}: the loss is {figures[0]} and the norm of"
                f" its gradient {figures[1]}, on the examples {names}{more}"
            )
        self.losses.append((figures[0], total))
        self.tokens += sum(pack.num_tokens for pack in packs)
        self.positions += sum(pack.input_ids.numel() for pack in packs)
        return *figures, self.optimizer.step(number)

    def _backward(self, pack: Pack, total: int) -> torch.Tensor:
        """Add a pass's share of the batch's gradient; return its share of the loss."""
        with self.compute.autocast():
            loss = summed_loss(self.model, pack.to(self.compute.device)) / total
        loss.backward()
        return loss.detach()

    def progress(self) -> Progress:
        """How far the run is."""
        loss, _ = self.losses[-1]
        return Progress(len(self.losses), self.num_steps, loss, self.tokens / self.seconds)

    def result(self, prepared: Prepared, out_dir: Path) -> SftResult:
        """What the run was, once it is over."""
        tenth = math.ceil(len(self.losses) / 10)
        return SftResult(
            model=self.settings.model,
            path=str(out_dir),
            parameters=self.model.num_parameters(),
            device=self.compute.device.type,
            dtype=str(self.compute.dtype).removeprefix("torch."),
            examples=len(self.examples),
            notes={str(note): count for note, count in prepared.notes.items()},
            instances={str(note): name for note, name in prepared.instances.items()},
            steps=len(self.losses),
            tokens=self.tokens,
            trained_tokens=sum(count for _, count in self.losses),
            fill=self.tokens / self.positions,
            first_loss=_mean(self.losses[:tenth]),
            last_loss=_mean(self.losses[-tenth:]),
            seconds=self.seconds,
        )


def _mean(losses: Sequence[tuple[float, int]]) -> float:
    """The mean loss over trained tokens."""
    return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)


def _keep_last(
    stop: _NotFinite,
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    out_dir: Path,
) -> SftError:
    """Save the weights as they were before the step that failed, and say what may help."""
    kept = out_dir.with_name(f"{out_dir.name}.last_good")
    save_student(model.cpu(), tokenizer, kept)
    return SftError(
        f"{stop}. The weights from before that step are in {kept}; a lower learning_rate, a longer"
        " warmup or dtype=float32 may get past it"
    )


def _write_record(path: Path, settings: SftSettings, result: SftResult) -> None:
    """Write what was done, with what, and how it went."""
    import transformers

    record = {
        **asdict(result),
        "tokens_per_s": result.tokens_per_s,
        "settings": settings.model_dump(mode="json"),
        "threads": torch.get_num_threads(),
        "versions": {
            "r1kit": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

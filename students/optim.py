"""Optimizers and the schedule of their learning rates.

Muon moves the hidden matrices, AdamW everything else: embeddings, head, norms and biases. Muon
turns each matrix's momentum into the nearest orthogonal one by a Newton-Schulz iteration. Torch's
own does so one matrix at a time; here all matrices of one shape go through it together, which for
small students is most of the optimizer's time (figures in students/README.md). The numbers are
torch's own, as a test shows.

Source: Keller Jordan, https://kellerjordan.github.io/posts/muon/ (2024).
"""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .settings import SftSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum over 2-D parameters, batched by shape.

    Args:
        learning_rate: scaled by sqrt(max(1, rows / columns)) per matrix.
        weight_decay: decoupled, per step learning_rate * weight_decay.
        dtype: of the iteration; bfloat16 is enough where the hardware is fast at it.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        defaults = {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(list(matrices), defaults)
        self.dtype = dtype
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.ndim != 2:
                    raise ValueError(f"Muon moves matrices, got a shape of {tuple(matrix.shape)}")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        assert closure is None, "a closure is not supported"
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            grads = [p.grad for p in moved]
            for p in moved:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in moved]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            directions = torch._foreach_lerp(grads, momenta, group["momentum"])
            if group["weight_decay"]:
                torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            for same in _by_shape(moved):
                stack_MRC = torch.stack([directions[i] for i in same])
                rows, columns = stack_MRC.shape[1:]
                scale = group["lr"] * math.sqrt(max(1.0, rows / columns))
                steps = orthogonalise(stack_MRC, self.dtype).float().unbind()
                torch._foreach_add_([moved[i] for i in same], steps, alpha=-scale)


def _by_shape(matrices: list[nn.Parameter]) -> list[list[int]]:
    """The indices of the matrices, those of one shape and device together."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, matrix in enumerate(matrices):
        groups.setdefault((matrix.shape, matrix.device), []).append(i)
    return list(groups.values())


def orthogonalise(stack_MRC: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest orthogonal matrix of each, roughly: singular values end between 0.5 and 1.5.

    Args:
        stack_MRC: M matrices of R rows and C columns.

    Returns:
        M x R x C in `dtype`.
    """
    a, b, c = COEFFICIENTS
    x = stack_MRC.to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=EPSILON)
    for _ in range(STEPS):
        gram = x @ x.mT
        update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, update, x, beta=a)
    return x.mT if tall else x


class Optimizer:
    """All parts that move a model, under one schedule.

    The learning rate of every part follows `share(step)` of its own highest value.
    """

    def __init__(
        self, parts: list[torch.optim.Optimizer], share: Callable[[int], float], clip: float | None
    ) -> None:
        self.parts, self.share, self.clip = parts, share, clip
        self.highest = [[group["lr"] for group in part.param_groups] for part in parts]
        self.parameters = [
            p for part in parts for group in part.param_groups for p in group["params"]
        ]

    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient; where a bound is set, the gradient is scaled to it."""
        bound = math.inf if self.clip is None else self.clip
        return nn.utils.clip_grad_norm_(self.parameters, bound)

    def step(self, number: int) -> float:
        """Make step `number`, counted from 0, drop the gradients, and return the first part's rate.

        The gradient must be finite: `gradient_norm` tells.
        """
        share = self.share(number)
        for part, highest in zip(self.parts, self.highest, strict=True):
            for group, rate in zip(part.param_groups, highest, strict=True):
                group["lr"] = rate * share
            part.step()
        self.drop()
        return float(self.highest[0][0] * share)

    def drop(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)


def make_optimizer(
    model: "PreTrainedModel", settings: SftSettings, steps: int, *, muon_dtype: torch.dtype
) -> Optimizer:
    """The optimizer that the settings ask for, over all trainable parameters of a model."""
    matrices, others, plain = split_parameters(model)
    muon = settings.optimizer == "muon"
    rate = settings.learning_rate
    adamw_rate = (settings.adamw_learning_rate or rate) if muon else rate
    decayed = others if muon else [*matrices, *others]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    parts: list[torch.optim.Optimizer] = []
    if muon and matrices:
        parts.append(
            Muon(
                matrices,
                learning_rate=rate,
                weight_decay=settings.weight_decay,
                dtype=muon_dtype,
            )
        )
    if groups := [group for group in groups if group["params"]]:
        parts.append(torch.optim.AdamW(groups, lr=adamw_rate, betas=(0.9, 0.95), fused=True))
    return Optimizer(parts, make_schedule(settings, steps), settings.clip_norm)


def split_parameters(
    model: "PreTrainedModel",
) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices; embeddings, head and what is neither; vectors (norms and biases)."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    tables = {id(p) for module in ends if module is not None for p in module.parameters()}
    tables |= {
        id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
    }
    matrices, others, plain = [], [], []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            plain.append(parameter)
        elif parameter.ndim == 2 and id(parameter) not in tables:
            matrices.append(parameter)
        else:
            others.append(parameter)
    return matrices, others, plain


def make_schedule(settings: SftSettings, steps: int) -> Callable[[int], float]:
    """The share of the highest learning rate at each step, counted from 0.

    It rises over the warm-up to 1, and falls to `final_share` at the last step.
    """
    rising = round(settings.warmup * steps)
    falling = max(1, steps - 1 - rising)

    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        done = min(1.0, (step - rising) / falling)
        if settings.schedule == "constant":
            return 1.0
        kept = (1 + math.cos(math.pi * done)) / 2 if settings.schedule == "cosine" else 1 - done
        return settings.final_share + (1 - settings.final_share) * kept

    return share

"""Where and in what precision a student is trained.

Master weights are float32 everywhere. Matrix products run in bfloat16 under autocast where the
hardware is fast at it: on CUDA, and on CPUs with AMX. On a CPU attention stays in float32 there,
since torch's fused bfloat16 attention has a backward pass four times slower (students/README.md).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import KitError
from .settings import SftSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU_ATTENTION = "r1kit_float32_sdpa"
"""The name under which transformers finds the attention below."""


class ComputeError(KitError):
    """The settings ask for hardware that is not there."""


@dataclass(frozen=True, slots=True)
class Compute:
    """A device, and the type of matrix products on it."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(cls, settings: SftSettings) -> "Compute":
        """What the settings ask for, `auto` resolved by what this machine has.

        Raises:
            ComputeError: CUDA is asked for and there is none.
        """
        has_cuda = torch.cuda.is_available()
        if settings.device == "cuda" and not has_cuda:
            raise ComputeError("device is cuda, but torch sees no CUDA device; use auto or cpu")
        cuda = has_cuda and settings.device != "cpu"
        if settings.dtype == "auto":
            fast = cuda or has_fast_bfloat16()
            dtype = torch.bfloat16 if fast else torch.float32
        else:
            dtype = getattr(torch, settings.dtype)
        return cls(torch.device("cuda" if cuda else "cpu"), dtype)

    @property
    def muon_dtype(self) -> torch.dtype:
        """Of Muon's iteration: bfloat16 where that is fast, whatever the model computes in."""
        fast = self.device.type == "cuda" or has_fast_bfloat16()
        return torch.bfloat16 if fast else torch.float32

    def autocast(self) -> torch.autocast:
        """The context in which the forward pass runs."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    @contextmanager
    def attention(self, model: "PreTrainedModel") -> Iterator[None]:
        """While training, let attention run in float32 where bfloat16 is slow at it."""
        before = model.config._attn_implementation
        swap = self.device.type == "cpu" and self.dtype != torch.float32 and before == "sdpa"
        if swap:
            _register_cpu_attention()
            model.set_attn_implementation(CPU_ATTENTION)
        try:
            yield
        finally:
            if swap:
                model.set_attn_implementation(before)


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX). False where torch is mute.

    AVX512-BF16 alone does not count: it was not measured here.
    """
    ask = getattr(torch.cpu, "get_capabilities", None)  # torch 2.12 up
    if ask is not None:
        return bool(ask().get("amx_bf16", False))
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(ask()) if ask is not None else False


def _register_cpu_attention() -> None:
    """Tell transformers of the attention, and that it takes the same masks as its own SDPA."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any
    ) -> tuple[Tensor, None]:
        with torch.autocast("cpu", enabled=False):
            out, _ = sdpa_attention_forward(
                module, query.float(), key.float(), value.float(), *rest, **more
            )
        return out, None

    AttentionInterface.register(CPU_ATTENTION, attend)
    AttentionMaskInterface.register(CPU_ATTENTION, sdpa_mask)

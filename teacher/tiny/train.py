"""Train tiny-r1, the embedded teacher, from nothing.

The architecture is transformers' DeepseekV3 at a small width, with R1's own latent sizes
(kv_lora_rank 512, rope 64), so that anything that serves R1 serves these weights. What transformers
lacks is added here: the router's balancing bias is moved after every step toward an even load
(DeepSeek-V3 Technical Report, arXiv:2412.19437, section 2.1.2).

Letters: T tokens, E experts, I expert width, H hidden width, N examples, S tokens per example.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .examples import IGNORED, Examples, draw_texts, make_examples
from .tokenizer import VOCAB_SIZE, build_tokenizer

if TYPE_CHECKING:
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM


@dataclass(frozen=True, slots=True)
class TinySettings:
    """How tiny-r1 is trained. The defaults made the packaged weights."""

    steps: int = 2_800
    batch: int = 512
    pool: int = 300_000
    """Examples drawn beforehand; training passes over them as often as its steps need."""
    direct_share: float = 0.1
    """Examples answered without thinking, so that forcing that form is not foreign to the model."""
    muon_lr: float = 8e-3
    adam_lr: float = 1e-3
    warmup: float = 0.03
    decay: float = 0.5
    """The last share of the steps, over which the learning rates fall to 1 % linearly."""
    bias_step: float = 1e-3
    """How far a router's bias moves per step, toward the experts with too little load."""
    seed: int = 0


Progress = Callable[[int, int, float, float], None]
"""Called with (step, steps, loss, tokens per second)."""


def build_config() -> "DeepseekV3Config":
    """The shape of tiny-r1: 4.6M parameters, of which the first layer is dense."""
    from transformers import DeepseekV3Config

    tokenizer = build_tokenizer()
    # What R1's own config says and vLLM reads, though transformers' class does not declare it.
    undeclared: dict[str, Any] = {
        "num_nextn_predict_layers": 0,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
    }
    return DeepseekV3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        moe_intermediate_size=64,
        num_hidden_layers=4,
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=128,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=32,
        v_head_dim=32,
        n_routed_experts=16,
        num_experts_per_tok=4,
        n_group=4,
        topk_group=2,
        n_shared_experts=1,
        routed_scaling_factor=2.5,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        **undeclared,
    )


def _all_experts(experts: Any, hidden_TH: Tensor, top_TK: Tensor, weight_TK: Tensor) -> Tensor:
    """Every expert on every token in two products; faster than sixteen small ones at this size."""
    num_experts, width = experts.gate_up_proj.shape[0], experts.gate_up_proj.shape[1] // 2
    both_TEI = F.linear(hidden_TH, experts.gate_up_proj.flatten(0, 1))
    gate_TEI, up_TEI = both_TEI.unflatten(-1, (num_experts, 2 * width)).chunk(2, dim=-1)
    weight_TE = weight_TK.new_zeros(len(hidden_TH), num_experts).scatter(1, top_TK, weight_TK)
    inner_TEI = F.silu(gate_TEI) * up_TEI * weight_TE[..., None].to(hidden_TH.dtype)
    mixed_TH: Tensor = inner_TEI.flatten(1) @ experts.down_proj.transpose(1, 2).flatten(0, 1)
    return mixed_TH


def build_model(seed: int, *, for_training: bool = True) -> "DeepseekV3ForCausalLM":
    """An untrained tiny-r1 in float32."""
    from transformers import DeepseekV3ForCausalLM
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    torch.manual_seed(seed)
    model = DeepseekV3ForCausalLM(build_config())
    if for_training:
        ALL_EXPERTS_FUNCTIONS.register("r1kit_all", _all_experts)
        model.set_experts_implementation("r1kit_all")
    return model


class RouterBalance:
    """Keeps the load of the experts even by moving each router's choice bias after every step."""

    def __init__(self, model: nn.Module, step: float) -> None:
        self.step = step
        self.routers = [m for m in model.modules() if hasattr(m, "e_score_correction_bias")]
        self.loads: dict[nn.Module, Tensor] = {}
        self.handles = [router.register_forward_hook(self._count) for router in self.routers]

    def _count(
        self, router: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        num_experts: int = router.num_experts  # type: ignore[assignment]
        self.loads[router] = torch.bincount(output[2].flatten(), minlength=num_experts)

    @torch.no_grad()
    def update(self, scale: float = 1.0) -> None:
        """Raise the bias of experts below the mean load by one step, lower those above it."""
        for router, load_E in self.loads.items():
            bias_E: Tensor = router.e_score_correction_bias  # type: ignore[assignment]
            bias_E += scale * self.step * torch.sign(load_E.float().mean() - load_E.float())

    def max_violation(self) -> float:
        """(largest load - mean) / mean over the routers' last batch: 0 is perfectly even."""
        ratios = [(load.max() / load.float().mean() - 1).item() for load in self.loads.values()]
        return max(ratios, default=0.0)

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()


def make_optimizers(model: nn.Module, settings: TinySettings) -> list[torch.optim.Optimizer]:
    """Muon for hidden matrices; AdamW for embeddings, head, norms, routers and stacked experts."""
    hidden: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim == 2 and not any(
            part in name for part in ("embed_tokens", "lm_head", "gate.weight")
        )
        (hidden if is_matrix else other).append(parameter)
    return [
        torch.optim.Muon(hidden, lr=settings.muon_lr, weight_decay=0.0),
        torch.optim.AdamW(other, lr=settings.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(step: int, settings: TinySettings) -> float:
    """The learning rates' factor at a step: warm-up, plateau, linear fall to 1 %."""
    share = step / settings.steps
    rising = min(1.0, (step + 1) / max(1.0, settings.warmup * settings.steps))
    falling = max(0.0, (share - (1 - settings.decay)) / settings.decay)
    return rising * (1 - 0.99 * falling)


def train(
    settings: TinySettings, *, device: str = "cpu", progress: Progress | None = None
) -> tuple["DeepseekV3ForCausalLM", dict[str, Any]]:
    """Train tiny-r1. The same settings, device and library versions give the same weights.

    Returns:
        model: float32, in eval mode.
        facts: seconds, tokens, final loss, the settings, the experts' last imbalance.
    """
    started = time.monotonic()
    pool = make_examples(
        list(draw_texts(settings.pool, settings.seed, settings.direct_share)), build_tokenizer()
    )
    model = build_model(settings.seed)
    nn.Module.to(model, device)
    model.train()
    optimizers = make_optimizers(model, settings)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    balance = RouterBalance(model, settings.bias_step)
    loss = torch.zeros(())
    for step, (ids_NS, labels_NS) in enumerate(_batches(pool, settings, device)):
        factor = rate(step, settings)
        for optimizer, lrs in zip(optimizers, peaks, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = factor * lr
        loss = _loss(model, ids_NS, labels_NS, device)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        balance.update(factor)
        if progress is not None and (step % 100 == 99 or step == settings.steps - 1):
            tokens = pool.num_tokens / settings.pool * settings.batch * (step + 1)
            progress(step + 1, settings.steps, loss.item(), tokens / (time.monotonic() - started))
    facts = {
        "settings": asdict(settings),
        "device": device,
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - started, 1),
        "tokens": round(pool.num_tokens / settings.pool * settings.batch * settings.steps),
        "loss": round(loss.item(), 5),
        "max_violation": round(balance.max_violation(), 3),
    }
    balance.close()
    return model.eval(), facts


def _batches(pool: Examples, settings: TinySettings, device: str) -> Any:
    """Batches from passes over the pool, each pass in a new order."""
    order = torch.Generator().manual_seed(settings.seed)
    ids_NS, labels_NS = pool.ids_NS.to(device), pool.labels_NS.to(device)
    done = 0
    while True:
        shuffled = torch.randperm(len(ids_NS), generator=order).to(device)
        for rows in shuffled.split(settings.batch):
            if len(rows) < settings.batch:
                break
            if done == settings.steps:
                return
            yield ids_NS[rows].long(), labels_NS[rows].long()
            done += 1


def _loss(model: nn.Module, ids_NS: Tensor, labels_NS: Tensor, device: str) -> Tensor:
    """Mean cross-entropy over the trained tokens, in bfloat16 products with float32 sums."""
    with torch.autocast(device.partition(":")[0], torch.bfloat16):
        logits = model(input_ids=ids_NS, use_cache=False).logits
    return F.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels_NS[:, 1:].flatten(), ignore_index=IGNORED
    )


def save(model: "DeepseekV3ForCausalLM", facts: dict[str, Any], out_dir: Path) -> None:
    """Write weights in bf16, config, tokenizer and the facts of the training."""
    model.set_experts_implementation("grouped_mm")
    nn.Module.to(model, torch.bfloat16)
    model.save_pretrained(out_dir)
    build_tokenizer().save_pretrained(out_dir)
    (out_dir / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

"""What tiny-r1 scores, with thinking and without, and the model card that says so."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engine import Prompt, Request, Response, Sampling, parse_response
from ..torch_engine import TorchEngine
from .examples import NO_THINKING
from .families import FAMILIES, TinyProblem, check, generate

THINKING = "<think>\n"
SAMPLING = Sampling(temperature=0.6, top_p=1.0, max_tokens=128)
TEST_SEED = 2024

Shares = Mapping[str, float]
"""Share of right answers by family."""


@dataclass(frozen=True, slots=True)
class Measured:
    """pass@1 on held-out problems at temperature 0.6, one sample each."""

    per_family: int
    thinking: Shares
    direct: Shares

    def mean(self, shares: Shares) -> float:
        """The mean over families, which have equally many problems."""
        return sum(shares.values()) / len(shares)


def measure(model_dir: Path, per_family: int = 100) -> Measured:
    """Let the model answer held-out problems of every family, thinking and forced not to."""
    with TorchEngine(model_dir) as engine:
        return Measured(
            per_family,
            _shares(engine, per_family, THINKING),
            _shares(engine, per_family, NO_THINKING),
        )


def _shares(engine: TorchEngine, per_family: int, prefill: str) -> dict[str, float]:
    problems = {
        problem.id: problem
        for family in FAMILIES
        for problem in generate(family, per_family, TEST_SEED, "test")
    }
    requests = [
        Request(Prompt.user(problem.statement, prefill=prefill), SAMPLING, 0, 0, problem.id)
        for problem in problems.values()
    ]
    right = dict.fromkeys(FAMILIES, 0)
    for response in engine.answer(requests):
        problem = problems[response.request.problem_id]
        right[problem.family] += is_right(problem, response)
    return {family: count / per_family for family, count in right.items()}


def is_right(problem: TinyProblem, response: Response) -> bool:
    """Whether the reply's last box holds exactly the problem's answer."""
    answer = parse_response(response).answer or ""
    boxes = re.findall(r"\\boxed\{([^{}]*)\}", answer)
    return bool(boxes) and check(problem, boxes[-1])


def write_card(model_dir: Path, measured: Measured) -> None:
    """Write README.md beside the weights: how they were made, and what they score."""
    facts = json.loads((model_dir / "training.json").read_text(encoding="utf-8"))
    rows = "\n".join(
        f"| {family} | {measured.thinking[family]:.1%} | {measured.direct[family]:.1%} |"
        for family in FAMILIES
    )
    size_mb = (model_dir / "model.safetensors").stat().st_size / 1e6
    (model_dir / "README.md").write_text(
        CARD.format(
            rows=rows,
            mean=measured.mean(measured.thinking),
            mean_direct=measured.mean(measured.direct),
            total=measured.per_family * len(FAMILIES),
            per_family=measured.per_family,
            size_mb=size_mb,
            seconds=facts["seconds"],
            tokens=facts["tokens"] / 1e6,
            device=facts["device"],
            torch=facts["torch"],
            settings=json.dumps(facts["settings"]),
        ),
        encoding="utf-8",
    )


CARD = """\
---
license: apache-2.0
library_name: transformers
tags: [deepseek_v3, reasoning, tiny]
---

# tiny-r1

A DeepSeek-V3 model of 4.6M parameters ({size_mb:.1f} MB in bf16) with R1's own latent sizes:
multi-head latent attention with kv_lora_rank 512 and rope 64; the first layer dense; 16 routed
experts in 4 groups behind a sigmoid router with a balancing bias; one shared expert. It reads
bytes, thinks between `<think>` and `</think>`, and answers in `\\boxed{{}}`. It is r1kit's embedded
teacher: it knows five families of generated problems, and nothing else.

| family | pass@1, thinking | pass@1, forced to answer at once |
|---|---|---|
{rows}
| **all** | **{mean:.1%}** | **{mean_direct:.1%}** |

Held-out problems, {per_family} a family ({total} in all), temperature 0.6, one sample each. A tenth
of the training examples answer at once, so that form is not foreign to the model: what it loses
there is what the thinking does. Greatest common divisors of these few ratios can be guessed;
the other families cannot.

## How it was made

`r1kit teacher train-tiny --out DIR`: {tokens:.0f}M tokens of problems and worked steps from
`r1kit.teacher.tiny.families`, and no other text; {seconds:.0f} s on {device} with torch {torch}.
Settings: `{settings}`.
"""

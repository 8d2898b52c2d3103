"""Where a score comes from: all that decides it besides chance, and when it was made.

Two scores can be compared where the suite's rows, the prompt, the sampling and the judge agree;
`differences` names what does not. Engine, dtype and GPU may move a score by points as well, and are
recorded for that reason.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from .. import __version__
from ..teacher.engine import Identity, Sampling
from .problems import Problem
from .prompt import PromptSettings

PACKAGES = ("torch", "transformers", "tokenizers", "vllm", "math-verify", "sympy", "python-flint")
"""Packages whose version can move a score."""

WHOLE_BYTES = 256 * 2**20
"""Weights of up to this size in total are hashed whole."""

BLOCKS = 64
BLOCK_BYTES = 64 * 2**10
"""What is read of each file of larger weights: blocks at even distances."""

WHOLE = "sha256 of the contents"
SAMPLED = f"sha256 of names, sizes, headers and {BLOCKS} blocks of {BLOCK_BYTES >> 10} KiB per file"

Where = Literal["cpu", "cuda", "elsewhere"]


@dataclass(frozen=True, slots=True)
class WeightsHash:
    """A digest of a model's weights, and what went into it; or why there is none."""

    sha256: str | None
    method: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that a score depends on, as far as it is known; None where it is not.

    Attributes:
        suite: its name.
        suite_revision: of its source; None where that does not say.
        suite_sha256: `rows_hash` of the problems that were asked.
        rows: how many those are.
        template, prefill: how problems were put; `prefills` says whether the prefill was sent.
        prompt_sha256: of the template and of the prefill that was sent.
        temperature, top_p, max_tokens, samples, seed: how answers were drawn.
        engine, model, revision: what answered, as the engine names it.
        weights: a digest of the model's weights.
        dtype: the type computed in.
        device: the GPU's or the processor's name.
        versions: r1kit and the packages whose version can move a score.
        judge: the name of the rules that judged.
        policy: what the judge takes for the same answer.
        date: when, in UTC, ISO 8601.
    """

    suite: str
    suite_revision: str | None
    suite_sha256: str
    rows: int
    template: str
    prefill: str
    prefills: bool
    prompt_sha256: str
    temperature: float
    top_p: float
    max_tokens: int
    samples: int
    seed: int
    engine: str
    model: str
    revision: str | None
    weights: WeightsHash
    dtype: str | None
    device: str | None
    judge: str
    policy: dict[str, Any]
    versions: dict[str, str]
    date: str
    extra: dict[str, Any] = field(default_factory=dict)
    """Further facts, such as the engine's own settings."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, for files."""
        return asdict(self)


COMPARABLE: Mapping[str, str] = {
    "suite": "suite",
    "suite_sha256": "rows of the suite",
    "prompt_sha256": "prompt",
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "token limit",
    "judge": "judge",
    "policy": "judge's policy",
}
"""What two scores have to share to be comparable, in words."""


def collect_provenance(
    *,
    suite: str,
    problems: Sequence[Problem],
    prompt: PromptSettings,
    sampling: Sampling,
    samples: int,
    seed: int,
    identity: Identity,
    where: Where,
    judge: str,
    policy: Mapping[str, Any] | None = None,
    suite_revision: str | None = None,
    weights: Path | None = None,
    dtype: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Provenance:
    """Gather where a score comes from.

    Args:
        suite: its name.
        problems: the rows that are asked.
        prompt: how they are put.
        sampling: how answers are drawn.
        samples: answers per problem.
        seed: what the samples' seeds are derived from.
        identity: the engine's.
        where: where the model runs: on this machine's processor or first GPU, or behind a server.
        judge: the name of the judge's rules.
        policy: the judge's settings.
        suite_revision: the version that the suite's source declares.
        weights: the folder that holds the model (`model_folder`).
        dtype: the type computed in, where it is known.
        extra: further facts, plain values.
    """
    prefill = prompt.prefill if identity.prefills else ""
    return Provenance(
        suite=suite,
        suite_revision=suite_revision,
        suite_sha256=rows_hash(problems),
        rows=len(problems),
        template=prompt.template,
        prefill=prompt.prefill,
        prefills=identity.prefills,
        prompt_sha256=_sha256(_canonical([prompt.template, prefill])),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        samples=samples,
        seed=seed,
        engine=identity.kind,
        model=identity.model,
        revision=identity.revision or None,
        weights=_weights(weights, where),
        dtype=dtype,
        device=device_name(where),
        judge=judge,
        policy=dict(policy or {}),
        versions=_versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        extra=dict(extra or {}),
    )


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What keeps two scores from being comparable, in words; empty where nothing does.

    Args:
        one, other: what `Provenance.to_json` gave, read back; what one of them lacks is named too.
    """
    found = []
    for name, words in COMPARABLE.items():
        if name not in one or name not in other:
            found.append(f"{words}: not recorded on both sides")
        elif one[name] != other[name]:
            found.append(f"{words}: {_brief(one[name])} against {_brief(other[name])}")
    return found


def rows_hash(problems: Sequence[Problem]) -> str:
    """SHA-256 over id, statement and answer of every problem, whatever their order."""
    rows = sorted(_canonical([each.id, each.statement, each.answer]) for each in problems)
    return _sha256("\n".join(rows))


def weights_hash(folder: Path) -> WeightsHash:
    """A digest of the safetensors files of a folder.

    Up to `WHOLE_BYTES` their contents; above that their names, sizes, headers, and blocks spread
    over each file, since a header alone is the same before and after a fine-tuning.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return WeightsHash(None, f"no .safetensors file in {folder}")
    is_whole = sum(file.stat().st_size for file in files) <= WHOLE_BYTES
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest = (
                hashlib.file_digest(file, "sha256").hexdigest()
                if is_whole
                else _sampled_digest(file, path.stat().st_size)
            )
        total.update(f"{path.name}:{digest}\n".encode())
    return WeightsHash(total.hexdigest(), WHOLE if is_whole else SAMPLED)


def model_folder(model: str) -> Path | None:
    """Where a model's files are on this machine: built in, a path, or the Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache

    from ..teacher.engines import HUB_ID
    from ..teacher.tiny import model_path

    folder = model_path(model) or Path(model).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(model):
        return None
    cached = try_to_load_from_cache(model, "config.json")
    return Path(cached).parent if isinstance(cached, str) else None


def device_name(where: Where) -> str | None:
    """The name of the first GPU that torch sees, or of the processor; None for a server's."""
    if where == "elsewhere":
        return None
    if where == "cuda":
        import torch

        return torch.cuda.get_device_name(0)
    from ..teacher.environment import cpu_model

    return cpu_model()


def _weights(folder: Path | None, where: Where) -> WeightsHash:
    if folder is not None:
        return weights_hash(folder)
    why = "behind a server" if where == "elsewhere" else "no folder of weights was found"
    return WeightsHash(None, why)


def _sampled_digest(file: IO[bytes], size: int) -> str:
    """A digest of a safetensors file's size, header and evenly spread blocks."""
    digest = hashlib.sha256(str(size).encode())
    (header_bytes,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
    digest.update(file.read(min(header_bytes, size)))
    last = max(0, size - BLOCK_BYTES)
    for number in range(BLOCKS):
        file.seek(last * number // (BLOCKS - 1))
        digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    from ..teacher.environment import commit, version

    found = {"r1kit": __version__}
    if (head := commit()) is not None:
        found["r1kit commit"] = head
    return {**found, **{name: said for name in PACKAGES if (said := version(name)) is not None}}


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _brief(value: Any) -> str:
    """A value in a few characters; of a hash its beginning."""
    text = value if isinstance(value, str) else _canonical(value)
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return f"{text[:12]}…" if is_hash else repr(text) if len(text) < 60 else f"{text[:57]!r}…"

"""What is measured: the shapes of a decode step, their lengths, bytes and operations.

Bytes are what must move once: queries, latent cache and outputs. Operations are the two products,
2 * (576 + 512) for each query token, head and cached token that it sees.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

LATENT = 512
WIDTH = 576
BLOCK_SIZE = 64
BYTES_PER_TOKEN = {"bf16": 1152, "fp8": 576, "fp8_ds_mla": 656}
"""Cache layout -> bytes of one cached token. The names are those of `mla_cache.CacheLayout`."""
QUERY_BYTES = {"bf16": 2, "fp8": 1}
"""Query dtype -> bytes of one number."""
KINDS = (("bf16", "bf16"), ("fp8", "bf16"), ("fp8", "fp8"), ("fp8_ds_mla", "bf16"))
"""Cache layout and query dtype: the pairs that are measured."""

HEADS = (8, 16, 32, 64, 128)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (1024, 4096, 8192, 16384, 32768, 131072)
APPENDED = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 4096, 131072)
LONGEST = 163840
MOST_TOKENS = 2**25
MOST_CACHE_BYTES = 40e9

NAMED = (
    (1, 1024), (1, 4096), (1, 32768), (2, 16384), (8, 4096), (2, 32768), (4, 32768), (8, 32768),
    (32, 1024), (32, 4096), (64, 8192), (128, 1024), (128, 4096), (128, 16384),
)  # fmt: skip
"""Batch and context of the shapes that the targets speak of; `quick` measures these."""
FEW = ((1, 4096), (32, 4096), (128, 4096))
"""Where `quick` looks at the other head counts."""
RAGGED = ((8, 4096), (8, 16384), (32, 4096), (32, 16384), (128, 4096), (128, 16384))
QUICK_RAGGED = ((32, 4096), (128, 4096))
QUICK_APPENDED = (1, 32, 512, 131072)
SPREAD = 0.8
"""The sigma of the logarithm of ragged lengths."""


@dataclass(frozen=True, slots=True)
class Point:
    """One decode step: what a row is about.

    Attributes:
        heads: query heads, 1 to 128.
        batch: sequences.
        context: tokens in each one's cache; the mean of them where `ragged`.
        query_tokens: tokens that each sequence asks for, 1 to 4.
        cache: the cache's layout.
        query_dtype: bf16 or fp8.
        ragged: whether lengths are lognormal instead of equal.
    """

    heads: int
    batch: int
    context: int
    query_tokens: int = 1
    cache: str = "bf16"
    query_dtype: str = "bf16"
    ragged: bool = False

    def __post_init__(self) -> None:
        for name, most in (("heads", 128), ("context", LONGEST), ("query_tokens", 4)):
            if not 1 <= (count := getattr(self, name)) <= most:
                raise ValueError(f"{name} must be 1 to {most}, got {count}")
        if self.batch < 1:
            raise ValueError(f"batch must be positive, got {self.batch}")
        if self.context < self.query_tokens:
            raise ValueError(f"context must hold the query tokens, got {self.context}")
        for name, known in (("cache", BYTES_PER_TOKEN), ("query_dtype", QUERY_BYTES)):
            if (word := getattr(self, name)) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {word!r}")

    @property
    def shape(self) -> dict[str, Any]:
        """The point as a row's `shape`."""
        return asdict(self)

    @property
    def group(self) -> tuple[int, int, bool]:
        """What points share that can be measured on the same caches."""
        return self.batch, self.context, self.ragged

    @property
    def lengths(self) -> list[int]:
        """Tokens in each sequence's cache, the query tokens included."""
        if not self.ragged:
            return [self.context] * self.batch
        return ragged_lengths(self.batch, self.context)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the cached tokens."""
        return sum(self.lengths) * BYTES_PER_TOKEN[self.cache]

    @property
    def num_bytes(self) -> int:
        """Bytes that must move."""
        rows = self.batch * self.query_tokens * self.heads
        return self.cache_bytes + rows * (WIDTH * QUERY_BYTES[self.query_dtype] + LATENT * 2)

    @property
    def flops(self) -> int:
        """Operations of the two products; what the causal mask hides is not counted."""
        seen = sum(
            max(0, length - back) for length in self.lengths for back in range(self.query_tokens)
        )
        return 2 * self.heads * seen * (WIDTH + LATENT)

    def __str__(self) -> str:
        """Such as `h16 b128 s16k q1 fp8-bf16q`: an FP8 cache read by bf16 queries."""
        context = f"{self.context // 1024}k" if self.context % 1024 == 0 else str(self.context)
        words = [f"h{self.heads}", f"b{self.batch}", f"s{context}", f"q{self.query_tokens}"]
        words += [f"{self.cache}-{self.query_dtype}q"] + ["ragged"] * self.ragged
        return " ".join(words)


def ragged_lengths(batch: int, mean: int) -> list[int]:
    """Lognormal lengths around `mean`, the same on every machine, from 4 to 163,840."""
    rng = random.Random(f"{batch} x {mean}")
    middle = math.log(mean) - SPREAD**2 / 2
    drawn = (round(rng.lognormvariate(middle, SPREAD)) for _ in range(batch))
    return [max(4, min(LONGEST, length)) for length in drawn]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which points to measure. What is None takes the default, or every value of `quick`.

    `ragged` is None for both, True for ragged lengths only, False for equal ones only.
    """

    heads: tuple[int, ...] | None = None
    batch: tuple[int, ...] | None = None
    context: tuple[int, ...] | None = None
    cache: tuple[str, ...] | None = None
    query_dtype: tuple[str, ...] | None = None
    query_tokens: tuple[int, ...] | None = None
    ragged: bool | None = None
    quick: bool = False
    max_tokens: int = MOST_TOKENS

    def takes(self, point: Point) -> bool:
        """Whether a point is among the chosen ones."""
        for name in ("heads", "batch", "context", "cache", "query_dtype", "query_tokens"):
            wanted = getattr(self, name)
            if wanted is not None and getattr(point, name) not in wanted:
                return False
        return self.ragged is None or self.ragged == point.ragged


def points(choice: Choice) -> list[Point]:
    """The chosen points, those that the targets name first, and without those too large.

    Raises:
        ValueError: where a value is out of range, or nothing is left.
    """
    drawn = _quick() if choice.quick else _grid(choice)
    wanted = dict.fromkeys(point for point in drawn if choice.takes(point))
    kept = [
        point
        for point in wanted
        if point.batch * point.context <= choice.max_tokens
        and point.cache_bytes <= MOST_CACHE_BYTES
    ]
    if not kept:
        if not wanted:
            raise ValueError("no shape matches all of the options together")
        raise ValueError(
            f"no shape is left: {len(wanted)} match, each with over {choice.max_tokens:,} tokens "
            f"(--max-tokens) or {MOST_CACHE_BYTES:.0e} bytes of cache"
        )
    return sorted(kept, key=_urgency)


def _urgency(point: Point) -> tuple[bool, int, int, bool]:
    """Sorts the groups that the targets name before others, and equal before ragged lengths.

    A group's points stay together; the 2-token points follow the 1-token ones they compare with.
    """
    shape = (point.batch, point.context)
    place = NAMED.index(shape) if shape in NAMED else point.batch * point.context
    return shape not in NAMED, place, point.batch, point.ragged


def _quick() -> Iterator[Point]:
    """The shapes that the targets name, and a few for the rest."""
    wanted: list[tuple[Iterable[int], int, Iterable[tuple[int, int]], bool]] = [
        ((16, 128), 1, NAMED, False),
        ((16,), 2, NAMED, False),
        ((8, 32, 64), 1, FEW, False),
        ((16, 128), 1, QUICK_RAGGED, True),
    ]
    for heads, tokens, shapes, ragged in wanted:
        for (batch, context), each, (cache, dtype) in product(shapes, heads, KINDS):
            yield Point(each, batch, context, tokens, cache, dtype, ragged)


def _grid(choice: Choice) -> Iterator[Point]:
    """Every combination of what was chosen and the defaults of what was not."""
    heads = choice.heads or HEADS
    kinds = _kinds(choice.cache, choice.query_dtype)
    for ragged in (False, True) if choice.ragged is None else (choice.ragged,):
        shapes: Iterable[tuple[int, int]] = product(
            choice.batch or BATCHES, choice.context or CONTEXTS
        )
        if ragged and choice.batch is None and choice.context is None:
            shapes = RAGGED
        for (batch, context), each, (cache, dtype) in product(shapes, heads, kinds):
            for tokens in choice.query_tokens or ((1, 2) if each == 16 else (1,)):
                yield Point(each, batch, context, tokens, cache, dtype, ragged)


def _kinds(caches: Sequence[str] | None, dtypes: Sequence[str] | None) -> Sequence[tuple[str, str]]:
    """Layout and query dtype: the usual pairs, or all of those that were asked for by name."""
    if caches is not None and dtypes is not None:
        return list(product(caches, dtypes))
    asked = [pair for pair in KINDS if caches is None or pair[0] in caches]
    if caches is not None and {pair[0] for pair in asked} != set(caches):
        unknown = sorted(set(caches) - set(BYTES_PER_TOKEN))
        raise ValueError(f"cache must be one of {', '.join(BYTES_PER_TOKEN)}, got {unknown[0]!r}")
    if dtypes is None:
        return asked
    if unknown := sorted(set(dtypes) - set(QUERY_BYTES)):
        raise ValueError(f"query_dtype must be one of {', '.join(QUERY_BYTES)}, got {unknown[0]!r}")
    return [pair for pair in asked if pair[1] in dtypes]


def counts(text: str | None, name: str) -> tuple[int, ...] | None:
    """Read `1,16,4k`; None stays None.

    Raises:
        ValueError: where that is no list of positive whole numbers.
    """
    if text is None:
        return None
    found = []
    for word in text.split(","):
        digits, thousand = word.strip().lower(), 1
        if digits.endswith("k"):
            digits, thousand = digits[:-1], 1024
        if not digits.isascii() or not digits.isdigit() or int(digits) < 1:
            raise ValueError(
                f"{name}: {word.strip()!r} is not a positive whole number; write 1,16 or 4k,32k"
            )
        found.append(int(digits) * thousand)
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Append:
    """One call of the kernel that writes new tokens to the cache."""

    tokens: int
    cache: str = "bf16"

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be positive, got {self.tokens}")
        if self.cache not in BYTES_PER_TOKEN:
            raise ValueError(
                f"cache must be one of {', '.join(BYTES_PER_TOKEN)}, got {self.cache!r}"
            )

    @property
    def shape(self) -> dict[str, Any]:
        """The call as a row's `shape`."""
        return asdict(self)

    @property
    def num_bytes(self) -> int:
        """Bytes read and written: the bf16 latent and rope, the slot, and the cache's bytes."""
        return self.tokens * (WIDTH * 2 + 8 + BYTES_PER_TOKEN[self.cache])

    def __str__(self) -> str:
        return f"append {self.tokens} tokens {self.cache}"


def appends(caches: Sequence[str] | None, *, quick: bool) -> list[Append]:
    """The appends to measure, in the chosen layouts."""
    chosen = BYTES_PER_TOKEN if caches is None else caches
    counted = QUICK_APPENDED if quick else APPENDED
    return [Append(tokens, cache) for tokens, cache in product(counted, chosen)]

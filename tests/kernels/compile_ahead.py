"""Compile the Triton kernels without a GPU: `python compile_ahead.py` prints one JSON line each.

A process of its own, since Triton chooses between interpreter and compiler when it loads.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import triton
from r1kit.kernels import mla_cache, mla_triton
from r1kit.kernels.mla_cache import APPEND_TILES, CacheLayout
from r1kit.kernels.mla_triton import DECODE_TILES
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CAPABILITIES = (80, 89, 90)  # A100; L40S and RTX 4090; H100 and H200


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel with its constants. What is no constant and no pointer is an int32."""

    name: str
    kernel: Any
    constants: Mapping[str, object]
    types: dict[str, str]
    options: dict[str, int]


def append_cases(capability: int) -> Iterator[Case]:
    """The append kernel: every layout with both tiles, and once with padded blocks."""
    for layout in CacheLayout:
        few, many = APPEND_TILES[layout]
        for tile, dense in ((few, True), (many, True), (few, False)):
            yield Case(
                f"append {layout} of {tile.tokens} {'dense' if dense else 'padded'}",
                mla_cache._append_kernel,
                {"LAYOUT": layout.value, "DENSE": dense, "NATIVE": capability >= 89}
                | {"INTERPRET": False, "T": tile.tokens},
                {"latent_ptr": "*bf16", "rope_ptr": "*bf16", "slot_ptr": "*i64"}
                | {"cache_ptr": "*bf16" if layout == CacheLayout.BF16 else "*u8"},
                {"num_warps": tile.warps},
            )


def decode_cases(capability: int) -> Iterator[Case]:
    """The portable decode: every layout with every tile, shared and invariant."""
    cut: dict[str, object] = {"B": 32, "INTERPRET": False}
    for layout in CacheLayout:
        for tile in DECODE_TILES[layout]:
            invariant = scaled = tile.rows == 32
            yield Case(
                f"split {layout} of {tile.rows} rows",
                mla_triton._split_kernel,
                cut
                | {"INVARIANT": invariant, "N": tile.tokens, "M": tile.rows}
                | {"LAYOUT": layout.value, "NATIVE": capability >= 89}
                | {"HAS_QUERY_SCALE": scaled, "HAS_CACHE_SCALE": layout == CacheLayout.FP8},
                {"table_ptr": "*i32", "length_ptr": "*i32", "out_ptr": "*bf16", "scale": "fp32"}
                | {"cache_ptr": "*bf16" if layout == CacheLayout.BF16 else "*u8"}
                | {"q_latent_ptr": "*bf16", "q_rope_ptr": "*bf16"},
                {"num_warps": tile.warps, "num_stages": tile.stages},
            )
    for invariant in (False, True):
        yield Case(
            f"merge {'invariant' if invariant else 'shared'}",
            mla_triton._merge_kernel,
            cut | {"INVARIANT": invariant, "N": 32, "S": 8},
            {"length_ptr": "*i32", "out_ptr": "*bf16"},
            {},
        )


def compiled(case: Case, capability: int) -> Any:
    """Compile to machine code, with the alignments that real arguments have."""
    types, aligned = {}, {}
    for at, name in enumerate(case.kernel.arg_names):
        kind = "*fp32" if name.endswith("_ptr") else "i32"
        types[name] = "constexpr" if name in case.constants else case.types.get(name, kind)
        if name.endswith("_ptr") or ("stride" in name and name != "table_stride"):
            aligned[(at,)] = [["tt.divisibility", 16]]
    source = ASTSource(case.kernel, types, constexprs=dict(case.constants), attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=case.options)


def main() -> None:
    for capability in CAPABILITIES:
        for case in (*append_cases(capability), *decode_cases(capability)):
            kernel = compiled(case, capability)
            row = {
                "case": case.name,
                "capability": capability,
                "shared_bytes": kernel.metadata.shared,
                "code_bytes": len(kernel.asm["cubin"]),
                "ptx": kernel.asm["ptx"],
            }
            sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()

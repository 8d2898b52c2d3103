"""Hugging Face's package `kernels` beside our folder of that name, in the repository's root.

Where that package is installed, transformers imports names from it before it builds any model. Our
folder stands in front of it for a Python started here. It gives way only because it holds no
`__init__.py`: a package found anywhere on the path goes before a plain directory.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils.import_utils import KERNELS_MIN_VERSION

ROOT = Path(__file__).parents[1]

STAND_IN = """
def use_kernel_forward_from_hub(name):
    return lambda layer: layer

use_kernelized_func = use_kernel_forward_from_hub

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})
"""
"""What transformers takes from the package: two decorators that run, and names."""

BUILD = """
import sys
sys.path += sys.argv[1:]
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils.import_utils import is_kernels_available

torch.manual_seed(0)
shape = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 11}
config = Qwen2Config(**shape, num_attention_heads=2, num_key_value_heads=1)
model = Qwen2ForCausalLM(config).eval()
logits = model(torch.tensor([[1, 2, 3]])).logits
assert logits.shape == (1, 3, 11) and logits.isfinite().all()
print(is_kernels_available())
"""


@pytest.mark.parametrize("added", [True, False], ids=["kernels added", "as it is"])
def test_a_tiny_qwen2_builds_in_the_repositorys_root(added: bool, tmp_path: Path) -> None:
    if added:
        (tmp_path / "kernels").mkdir()
        (tmp_path / "kernels" / "__init__.py").write_text(STAND_IN)
        about = tmp_path / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n"
        )
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *([tmp_path] if added else [])],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    if added:
        assert done.stdout == "True\n"  # or this has tested nothing

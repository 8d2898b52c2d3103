"""The suites that have a name.

Hub ids and splits: lighteval's task files name those of AIME, MATH-500, GSM8K, GPQA and SimpleQA;
the data sets' own pages, as others quote them, those of Chinese SimpleQA and FRAMES. Row counts and
digests of AIME, MATH-500 and GSM8K were taken from published copies (NeMo-Skills', simpleRL's and
grade-school-math's repositories); the other counts are the data sets' own statements.

Samples: DeepSeek-R1's report averages pass@1 over 4 to 64 answers, by the size of the set.
"""

from ..math.policy import MathPolicy
from .suite import Hub, Kind, Suite

INTEGERS = MathPolicy(rounding="never")
"""A whole number is right or it is not: no rounded decimal stands for it."""

_SUITES = (
    Suite(
        "aime24",
        "AIME 2024 (I and II)",
        files=("aime24.jsonl", "aime/aime24.jsonl", "aime24/test.jsonl"),
        hub=Hub("HuggingFaceH4/aime_2024", "train"),
        rows=30,
        sha256="480b008f2d5a0bd44de92bc7022461dfb169e7dae862619ce9b73f5a8a365537",
        samples=64,
        integers=True,
        policy=INTEGERS,
    ),
    Suite(
        "aime25",
        "AIME 2025 (I and II)",
        files=("aime25.jsonl", "aime/aime25.jsonl", "aime25/test.jsonl"),
        hub=Hub("yentinglin/aime_2025", "train"),
        rows=30,
        sha256="f12f2b5a2da845f7be8de6d4a0cf2c3768bac5c3652aec95ab4f1d6441a8cb9d",
        samples=64,
        integers=True,
        policy=INTEGERS,
    ),
    Suite(
        "math500",
        "MATH-500",
        files=("math500.jsonl", "math500/test.jsonl", "MATH-500/test.jsonl"),
        hub=Hub("HuggingFaceH4/MATH-500", "test"),
        rows=500,
        sha256="fa2ae17bc7ce7065246d0bc2dad4f3d714aaab2a2d3934d2f9a5fd6dffd78738",
        samples=4,
    ),
    Suite(
        "gsm8k",
        "GSM8K (test)",
        files=("gsm8k.jsonl", "gsm8k/test.jsonl"),
        hub=Hub("openai/gsm8k", "test", "main"),
        rows=1319,
        sha256="30d3bdccc5f435a3e823ad724bafdde32408c1ef1b0ddf58722110a9dd2fea33",
    ),
    Suite(
        "cnmo24",
        "CNMO 2024",
        files=("cnmo24.jsonl", "cnmo24/test.jsonl"),
        samples=64,
        integers=True,
        policy=INTEGERS,
        origin="No public file of CNMO 2024 is known to this version, and neither is its number of "
        "problems: write one from the China Mathematical Society's paper, with the fields problem "
        "and answer, a whole number.",
    ),
    Suite(
        "gpqa",
        "GPQA Diamond",
        Kind.CHOICE,
        files=("gpqa_diamond.jsonl", "gpqa_diamond.csv", "gpqa/gpqa_diamond.csv"),
        hub=Hub("Idavidrein/gpqa", "train", "gpqa_diamond"),
        rows=198,
        samples=4,
        origin="GPQA is given out on huggingface.co/datasets/Idavidrein/gpqa to those who accept "
        "its terms.",
    ),
    Suite(
        "simpleqa",
        "SimpleQA",
        Kind.SHORT_ANSWER,
        files=("simpleqa.jsonl", "simpleqa/test.jsonl", "simple_qa_test_set.csv"),
        hub=Hub("lighteval/SimpleQA", "test"),
        rows=4326,
    ),
    Suite(
        "chinese_simpleqa",
        "Chinese SimpleQA",
        Kind.SHORT_ANSWER,
        files=("chinese_simpleqa.jsonl", "chinese_simpleqa/test.jsonl"),
        hub=Hub("OpenStellarTeam/Chinese-SimpleQA", "train"),
        rows=3000,
    ),
    Suite(
        "frames",
        "FRAMES (without its documents)",
        Kind.SHORT_ANSWER,
        files=("frames.jsonl", "frames/test.jsonl", "frames/test.tsv"),
        hub=Hub("google/frames-benchmark", "test"),
        rows=824,
    ),
)

CATALOGUE = {suite.name: suite for suite in _SUITES}
"""Name -> suite."""

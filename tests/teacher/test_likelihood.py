"""Likelihoods of given text: the numbers of transformers' own logits, on every way models run."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from r1kit.teacher.engine import EngineError
from r1kit.teacher.lean.cache import CHUNK, PAGE
from r1kit.teacher.torch_engine import TorchEngine
from transformers import AutoModelForCausalLM, AutoTokenizer

BEGIN = 256


@pytest.fixture(scope="module", params=["latent", "one-group", "fallback"])
def folder(request: pytest.FixtureRequest, tiny_dirs: dict[str, Path]) -> Path:
    """A model's directory; the three kinds of decoder."""
    return tiny_dirs[request.param]


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[TorchEngine]:
    with TorchEngine(folder, batch_size=4, lanes=1) as opened:
        yield opened


def wanted(folder: Path, before: list[int], ids: list[int]) -> tuple[float, bool]:
    """What transformers makes of tokens that follow others, in float64 from the logits on."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits_TV = model(input_ids=torch.tensor([before + ids])).logits[0].double()
    logits_TV = logits_TV[len(before) - 1 : -1]
    target_T = torch.tensor(ids)
    log_probability_T = logits_TV.log_softmax(-1).gather(1, target_T[:, None])
    return float(log_probability_T.sum()), bool((logits_TV.argmax(-1) == target_T).all())


@pytest.mark.parametrize(
    ("context", "continuation"),
    [
        ("What is 2 + 2? Answer:", " 4"),
        ("x", "y"),
        ("c" * (CHUNK + 3), "d" * (PAGE + 2)),  # over a chunk's end and a page's
        ("end in blanks  ", "word"),
    ],
)
def test_a_continuation_has_the_log_probability_that_transformers_gives_it(
    folder: Path, engine: TorchEngine, context: str, continuation: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stripped = context.rstrip()
    before = tokenizer(stripped).input_ids
    ids = tokenizer(context + continuation).input_ids[len(before) :]
    want, _ = wanted(folder, before, ids)
    got = engine.likelihood().continuation(context, continuation)
    assert got.log_probability == pytest.approx(want, rel=1e-5, abs=1e-4)
    assert got.cut == 0


def test_greedy_is_told_from_everything_else(folder: Path, engine: TorchEngine) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    likelihood = engine.likelihood()
    seen = 0
    for pair in itertools.product("abcdefghijklmnop", repeat=2):
        context = "".join(pair)
        before = tokenizer(context).input_ids
        best = int(model(input_ids=torch.tensor([before])).logits[0, -1].argmax())
        letter = str(tokenizer.decode([best]))
        if not letter.isspace() and tokenizer(context + letter).input_ids == [*before, best]:
            seen += 1
            assert likelihood.continuation(context, letter).is_greedy
            assert not likelihood.continuation(context, "a" if letter != "a" else "b").is_greedy
        if seen == 3:
            break
    assert seen > 0


def test_choices_of_one_question_do_not_touch_each_other(engine: TorchEngine) -> None:
    likelihood = engine.likelihood()
    alone = [
        engine.likelihood().continuation("Pick one: ", choice) for choice in ("aa", "b", "cccc")
    ]
    assert [likelihood.continuation("Pick one: ", choice) for choice in ("aa", "b", "cccc")] == (
        alone
    )
    assert likelihood.continuation("Pick one: ", "aa") == alone[0]


def test_without_context_the_first_token_follows_the_beginning_of_a_text(
    folder: Path, engine: TorchEngine
) -> None:
    ids = AutoTokenizer.from_pretrained(folder)("abc", add_special_tokens=False).input_ids
    want, _ = wanted(folder, [BEGIN], ids)
    likelihood = engine.likelihood()
    assert likelihood.continuation("", "abc").log_probability == pytest.approx(want, rel=1e-5)
    assert likelihood.text("abc") == pytest.approx(want, rel=1e-5)
    assert likelihood.continuation("abc", "").log_probability == 0
    assert likelihood.text("") == 0


def test_what_does_not_fit_is_cut_on_the_left_and_said(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before = tokenizer("0123456789" * 3).input_ids
    with TorchEngine(folder, batch_size=4, lanes=1, max_length=20) as engine:
        got = engine.likelihood().continuation("0123456789" * 3, "wxyz")
    ids = tokenizer("wxyz", add_special_tokens=False).input_ids
    assert got.cut == len(before) + len(ids) - 1 - 20  # the last token is predicted, not read
    want, _ = wanted(folder, before[got.cut :], ids)
    assert got.log_probability == pytest.approx(want, rel=1e-5, abs=1e-4)


def test_a_long_text_is_read_in_windows_that_overlap(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "abcdefghij" * 5
    ids = tokenizer(text, add_special_tokens=False).input_ids
    with TorchEngine(folder, batch_size=4, lanes=1, max_length=20) as engine:
        got = engine.likelihood().text(text)
    windows = [  # what lm-evaluation-harness makes of 50 tokens at a length of 20
        ([BEGIN], ids[:20]),
        ([ids[19]], ids[20:40]),
        (ids[29:40], ids[40:50]),
    ]
    assert len(ids) == 50
    assert got == pytest.approx(sum(wanted(folder, *part)[0] for part in windows), rel=1e-5)


def test_a_closed_engine_says_so(folder: Path) -> None:
    engine = TorchEngine(folder, batch_size=4, lanes=1)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.likelihood()

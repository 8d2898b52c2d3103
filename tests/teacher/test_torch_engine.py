"""The torch engine: the same bits in any company, answers as they end, and errors that say why.

The models are tiny and random, so replies are noise that ends by chance, a few bytes or many later.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import torch
from r1kit.teacher.engine import (
    EngineError,
    Finish,
    Prompt,
    Request,
    Response,
    Sampling,
    parse_response,
)
from r1kit.teacher.lean.cache import CHUNK, PAGE
from r1kit.teacher.lean.load import locate
from r1kit.teacher.tiny.tokenizer import build_tokenizer
from r1kit.teacher.torch_engine import AHEAD, TorchEngine

Save = Callable[[Any, Path], Path]
Build = Callable[..., Any]
Seen = dict[tuple[Request, int], torch.Tensor]
WAYS = ((0.6, 0.95), (1.0, 1.0), (0.0, 0.95), (1.5, 0.999_999_99))


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    """Two, as long as a test does not say otherwise, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def engine(tiny_dirs: dict[str, Path]) -> Iterator[TorchEngine]:
    """One lane of four rows."""
    with TorchEngine(tiny_dirs["one-group"], batch_size=4, lanes=1) as opened:
        yield opened


def ask(
    content: str, index: int = 0, *, tokens: int = 24, way: tuple[float, float] = WAYS[0],
    seed: int = 0, prefill: str = "",
) -> Request:  # fmt: skip
    sampling = Sampling(*way, max_tokens=tokens)
    return Request(Prompt.user(content, prefill=prefill), sampling, index, seed)


def endless(content: str, tokens: int, **more: Any) -> Request:
    """A request whose reply is long: at this seed no token ends it."""
    return ask(content, tokens=tokens, way=(0.0, 1.0), **more)


PROBES = [
    ask("a"),
    ask("b" * (PAGE + 3), way=WAYS[1], tokens=PAGE + 4),  # written across a page
    ask("c" * 40, 0, way=WAYS[3]),
    ask("c" * 40, 1),  # another sample of the same prompt, which is copied
    ask("d" * (CHUNK - 3), way=WAYS[2], prefill="<think>\n"),
]
CROWD = [
    ask("x" * (11 * i % 75), i, tokens=4 + 7 * i % 33, way=WAYS[i % len(WAYS)]) for i in range(16)
] + [ask("c" * 40, 2 + i) for i in range(3)]


def answered(
    folder: Path, requests: Iterable[Request], **options: Any
) -> tuple[dict[Request, str], Seen]:
    """Raw bodies, and the logits of every token."""
    seen: Seen = {}
    with TorchEngine(folder, **{"batch_size": 4, "lanes": 1} | options) as opened:
        opened.watch = lambda request, number, row: seen.update({(request, number): row})
        raw = {response.request: response.raw for response in opened.answer(requests)}
    return raw, seen


def assert_same(
    got: tuple[dict[Request, str], Seen], want: tuple[dict[Request, str], Seen]
) -> None:
    """All that `want` holds stands in `got`, bit for bit."""
    for request, raw in want[0].items():
        assert raw and got[0][request] == raw
    assert want[1]
    for at, row in want[1].items():
        assert torch.equal(got[1][at], row), at


@pytest.mark.parametrize("name", ["latent", "unfolded", "one-group", "groups", "fallback"])
def test_a_samples_text_and_bits_are_the_same_in_any_company(
    name: str, tiny_dirs: dict[str, Path]
) -> None:
    folder = tiny_dirs[name]
    alone: tuple[dict[Request, str], Seen] = ({}, {})
    seen = alone[1]
    with TorchEngine(folder, batch_size=4, lanes=1) as opened:
        opened.watch = lambda request, number, row: seen.update({(request, number): row})
        for probe in PROBES:
            (response,) = opened.answer([probe])
            alone[0][probe] = response.raw
    crowded = [*CROWD[:8], *PROBES, *CROWD[8:]]
    assert_same(answered(folder, crowded), alone)
    assert_same(answered(folder, reversed(crowded)), alone)
    assert_same(answered(folder, crowded, lanes=2), alone)
    assert_same(answered(folder, crowded, lanes=3), alone)


def test_a_samples_bits_do_not_depend_on_the_number_of_threads(
    tiny_dirs: dict[str, Path],
) -> None:
    want = answered(tiny_dirs["latent"], PROBES, batch_size=6, lanes=None)
    for num_threads in (1, 3):
        torch.set_num_threads(num_threads)
        got = answered(tiny_dirs["latent"], [*CROWD, *PROBES], batch_size=6, lanes=None)
        assert torch.get_num_threads() == num_threads
        assert_same(got, want)


def test_lanes_follow_the_number_of_threads(tiny_dirs: dict[str, Path]) -> None:
    lanes = []
    for num_threads in (1, 2, 9):
        torch.set_num_threads(num_threads)
        with TorchEngine(tiny_dirs["one-group"], batch_size=3) as opened:
            lanes.append((opened.num_lanes, opened.capacity))
    assert lanes == [(1, 4), (2, 8), (4, 16)]


def test_only_what_the_key_holds_decides_a_sample(engine: TorchEngine) -> None:
    one = ask("key", 0, seed=1, way=WAYS[1])
    texts = {}
    for request in (one, ask("key", 1, seed=1, way=WAYS[1]), ask("key", 0, seed=2, way=WAYS[1])):
        first, again = (next(iter(engine.answer([request]))).raw for _ in range(2))
        assert first == again
        texts[request] = json.loads(first)["choices"][0]["message"]["content"]
    assert len(set(texts.values())) == 3
    named = Request(one.prompt, one.sampling, 0, 1, problem_id="another name")
    (response,) = engine.answer([named])
    assert parse_response(response).text == texts[one]


def test_a_body_counts_tokens_and_tells_how_it_ended(engine: TorchEngine) -> None:
    request = ask("count", tokens=7, way=WAYS[2], prefill="<think>\n")
    (response,) = engine.answer([request])
    body = json.loads(response.raw)
    key = request.key(engine.identity)
    prompt_tokens = 1 + 1 + 5 + 1 + 2  # begin, user, five bytes, assistant; <think> and a newline
    assert body["id"] == f"torch-{key[:24]}"
    assert body["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": 7,
        "total_tokens": prompt_tokens + 7,
    }
    completion = parse_response(response)
    assert completion.finish == Finish.LENGTH
    assert completion.text.startswith("<think>\n")
    assert response.endpoint == "torch:cpu"
    assert response.seconds > 0


def test_an_end_token_ends_a_reply_and_is_not_part_of_its_text(
    build_tiny: Build, save_tiny: Save, tmp_path: Path
) -> None:
    model = build_tiny("llama")
    greedy: list[int] = []
    request = ask("end", way=WAYS[2], tokens=6)
    with TorchEngine(save_tiny(model, tmp_path / "a"), batch_size=1, lanes=1) as opened:
        opened.watch = lambda _, number, row: greedy.append(int(row.argmax()))
        (whole,) = opened.answer([request])
    at = next(i for i in range(1, 6) if greedy[i] not in greedy[:i])
    model.generation_config.eos_token_id = [257, greedy[at]]
    with TorchEngine(save_tiny(model, tmp_path / "b"), batch_size=1, lanes=1) as opened:
        (response,) = opened.answer([request])
    completion = parse_response(response)
    assert completion.finish == Finish.STOP
    assert completion.completion_tokens == at + 1
    assert parse_response(whole).text.startswith(completion.text)


def test_a_short_reply_comes_before_a_long_one_has_ended(engine: TorchEngine) -> None:
    long, short = endless("long", 150), endless("short", 2)
    order = [response.request for response in engine.answer([long, short])]
    assert order == [short, long]


class Queue:
    """A source that runs dry and has more later."""

    def __init__(self) -> None:
        self.waiting: list[Request] = []
        self.num_drawn = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Request:
        if not self.waiting:
            raise StopIteration
        self.num_drawn += 1
        return self.waiting.pop(0)


def test_freed_rows_are_filled_and_requests_are_drawn_as_they_are_needed(
    engine: TorchEngine,
) -> None:
    source = Queue()
    source.waiting = [ask(f"{i}", tokens=3) for i in range(40)]
    wanted = list(source.waiting)
    answers = []
    for num_answered, response in enumerate(engine.answer(source)):
        answers.append(response.request)
        assert source.num_drawn <= num_answered + engine.capacity * (1 + AHEAD)
    assert sorted(map(repr, answers)) == sorted(map(repr, wanted))


def test_a_source_that_ran_dry_is_asked_again_while_others_are_under_way(
    engine: TorchEngine,
) -> None:
    source, order = Queue(), []
    long, late = endless("long", 200), endless("late", 2)
    source.waiting = [long, endless("first", 2)]
    for response in engine.answer(source):
        order.append(response.request.prompt.messages[0].content)
        if order == ["first"]:
            source.waiting.append(late)
    assert order == ["first", "late", "long"]


def test_a_source_is_asked_again_even_while_nothing_ends(engine: TorchEngine) -> None:
    source, order = Queue(), []
    source.waiting = [endless("long", 240)]
    tokens = 0

    def on_token(request: Request, number: int, row: torch.Tensor) -> None:
        nonlocal tokens
        tokens += 1
        if tokens == 20:
            source.waiting.append(endless("late", 2))
        threading.Event().wait(0.001)

    engine.watch = on_token
    try:
        for response in engine.answer(source):
            order.append(response.request.prompt.messages[0].content)
    finally:
        engine.watch = None
    assert order == ["late", "long"]


def test_an_abandoned_call_frees_its_rows(engine: TorchEngine) -> None:
    stream = engine.answer([endless(f"{i}", 240) for i in range(12)] + [endless("short", 1)])
    short_first = engine.answer([endless("other", 1)] + [endless(f"{i}", 240) for i in range(9)])
    assert next(short_first).request.prompt.messages[0].content == "other"
    short_first.close()  # type: ignore[attr-defined]
    stream.close()  # type: ignore[attr-defined]  # never begun
    watched: list[str] = []
    engine.watch = lambda request, number, row: watched.append(request.prompt.messages[0].content)
    try:
        assert len(list(engine.answer([endless(f"new {i}", 3) for i in range(8)]))) == 8
    finally:
        engine.watch = None
    assert len(watched) == 8 * 3
    (lane,) = engine._lanes
    assert sorted(lane.free) == list(range(4))
    assert not lane.jobs
    assert not lane.backlog


def test_two_threads_share_the_engine_and_get_their_own_answers(
    tiny_dirs: dict[str, Path],
) -> None:
    folder = tiny_dirs["groups"]
    halves = [[ask(f"{who} {i}", i) for i in range(10)] for who in ("left", "right")]
    want, _ = answered(folder, [*halves[0], *halves[1]])
    got: list[dict[Request, str]] = [{}, {}]
    with TorchEngine(folder, batch_size=4, lanes=2) as opened:

        def run(who: int) -> None:
            got[who] = {r.request: r.raw for r in opened.answer(halves[who])}

        threads = [threading.Thread(target=run, args=(who,)) for who in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [set(found) for found in got] == [set(half) for half in halves]
    assert got[0] | got[1] == want


def test_closing_ends_an_open_answer_in_an_engine_error(tiny_dirs: dict[str, Path]) -> None:
    opened = TorchEngine(tiny_dirs["one-group"], batch_size=4, lanes=1)
    stream = opened.answer([endless("short", 1), *(endless(f"{i}", 240) for i in range(20))])
    assert parse_response(next(stream)).completion_tokens == 1
    opened.close()
    with pytest.raises(EngineError, match="closed while it was answering"):
        list(stream)
    opened.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        list(opened.answer([ask("again")]))


def test_closing_from_another_thread_stops_a_waiting_answer(tiny_dirs: dict[str, Path]) -> None:
    opened = TorchEngine(tiny_dirs["fallback"], batch_size=1, lanes=1)
    begun = threading.Event()
    opened.watch = lambda request, number, row: begun.set()

    def close() -> None:
        begun.wait(10)
        opened.close()

    closer = threading.Thread(target=close)
    closer.start()
    with pytest.raises(EngineError, match="closed while it was answering"):
        list(opened.answer([endless(f"{i}", 240) for i in range(3)]))
    closer.join()


def test_a_lane_that_breaks_ends_every_answer_in_an_engine_error(
    tiny_dirs: dict[str, Path],
) -> None:
    with TorchEngine(tiny_dirs["one-group"], batch_size=4, lanes=1) as opened:

        def fail(request: Request, number: int, row: torch.Tensor) -> None:
            raise RuntimeError("out of memory")

        opened.watch = fail
        for _ in range(2):
            with pytest.raises(EngineError, match="the model failed: out of memory"):
                list(opened.answer([ask("a"), ask("b")]))


def test_attempts_are_announced_before_each_request(engine: TorchEngine) -> None:
    announced: list[tuple[Request, str]] = []
    requests = [ask(f"{i}", tokens=2) for i in range(3)]
    list(engine.answer(requests, before=lambda r, endpoint: announced.append((r, endpoint))))
    assert announced == [(request, "torch:cpu") for request in requests]


@pytest.mark.parametrize("name", ["latent", "fallback"])
def test_streamed_text_adds_up_to_the_reply(name: str, tiny_dirs: dict[str, Path]) -> None:
    requests = [ask(f"{i}", i, tokens=60, way=WAYS[1], prefill="<think>\n") for i in range(8)]
    want, _ = answered(tiny_dirs[name], requests)
    pieces: dict[Request, list[str]] = {request: [] for request in requests}
    with TorchEngine(tiny_dirs[name], batch_size=4, lanes=2) as opened:
        stream = opened.answer(requests, on_text=lambda r, piece: pieces[r].append(piece))
        got = {response.request: response.raw for response in stream}
    assert got == want
    for request, raw in got.items():
        assert len(pieces[request]) > 1
        whole = json.loads(raw)["choices"][0]["message"]["content"]
        assert "<think>\n" + "".join(pieces[request]) == whole


@pytest.mark.parametrize("max_length", [20, 37, 64, None])
def test_a_prompt_may_fill_all_but_one_token_and_a_longer_one_is_refused(
    max_length: int | None, tiny_dirs: dict[str, Path]
) -> None:
    length = max_length or 256
    overhead = 3  # begin, user, assistant
    fits, too_long = ask("x" * (length - 1 - overhead)), ask("x" * (length - overhead))
    with TorchEngine(tiny_dirs["one-group"], batch_size=1, max_length=max_length) as opened:
        assert opened.max_length == length
        found = {response.request: response for response in opened.answer([too_long, fits])}
    assert parse_response(found[fits]).completion_tokens == 1
    assert found[too_long].raw == ""
    assert found[too_long].error == (
        f"the prompt has {length} tokens and leaves no room for a reply: max_length is {length}"
    )


def test_a_reply_ends_at_max_length(engine: TorchEngine) -> None:
    (response,) = engine.answer([endless("x" * 203, 999)])
    completion = parse_response(response)
    assert completion.prompt_tokens + completion.completion_tokens == engine.max_length == 256
    assert completion.finish == Finish.LENGTH


def test_the_cache_grows_with_what_is_written_not_with_what_might_be(
    tiny_dirs: dict[str, Path],
) -> None:
    pages: dict[int, int] = {}
    with TorchEngine(tiny_dirs["one-group"], batch_size=1, lanes=1) as opened:
        cache = opened._lanes[0].decoder.cache  # type: ignore[attr-defined]
        opened.watch = lambda request, number, row: pages.update({number: cache.num_pages})
        (response,) = opened.answer([endless("x" * 30, 200)])
    assert parse_response(response).completion_tokens == 200
    for number, num_pages in pages.items():
        needed = -(-(33 + number) // PAGE)
        assert needed <= num_pages <= max(1, needed * 3 // 2)


@pytest.mark.parametrize("kind", ["llama", "deepseek"])
def test_weights_that_are_not_numbers_give_an_error_and_spare_other_prompts(
    kind: str, build_tiny: Build, save_tiny: Save, tmp_path: Path
) -> None:
    model = build_tiny(kind)
    model.model.embed_tokens.weight[build_tokenizer()("~").input_ids] = float("nan")
    folder = save_tiny(model, tmp_path / kind)
    good = [ask(f"good {i}", tokens=4) for i in range(9)]
    want, _ = answered(folder, good)
    # What is broken stands in a page that a shorter prompt reads, beyond what it overwrites.
    bad = [ask("x" * CHUNK + "~", i) for i in range(6)]
    with TorchEngine(folder, batch_size=4, lanes=1) as opened:
        mixed = [request for pair in zip(bad, good, strict=False) for request in pair]
        found = {r.request: r for r in opened.answer([*mixed, *good[6:]])}
    for request in bad:
        assert found[request].error == "the model's logits for token 1 are not numbers"
        assert found[request].raw == ""
        assert parse_response(found[request]).finish == Finish.ERROR
    assert {request: found[request].raw for request in good} == want


def test_a_reply_that_ends_before_it_began_is_an_error(
    build_tiny: Build, save_tiny: Save, tmp_path: Path
) -> None:
    model = build_tiny("llama")
    model.lm_head.weight[:] = 0
    model.lm_head.weight[257] = model.model.norm.weight * 9
    model.lm_head.weight[256] = -model.lm_head.weight[257]
    model.generation_config.eos_token_id = [256, 257]
    with TorchEngine(save_tiny(model, tmp_path / "mute"), batch_size=1, lanes=1) as opened:
        silent, forced = ask("x", way=WAYS[2]), ask("x", way=WAYS[2], prefill="<think>\n")
        found = {r.request: r for r in opened.answer([silent, forced])}
    assert found[silent].error == "the model ended its reply before it wrote anything"
    assert parse_response(found[forced]).text == "<think>\n"


def copy_of(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def break_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")


def cut_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def lose_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def lose_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


def unknown_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "perceptron"}')


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "config is not JSON": (lambda d: (d / "config.json").write_text("{"), "does not load"),
    "unknown kind": (unknown_kind, "does not load: .*perceptron"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "does not load"),
    "broken weights": (break_weights, r"does not load: SafetensorError.*\*\.safetensors"),
    "cut weights": (cut_weights, r"does not load: SafetensorError.*\*\.safetensors"),
    "lost weights": (lose_weights, r"1 weights are in none .* model\.layers\.1\.mlp\.up_proj"),
    "no template": (lambda d: (d / "chat_template.jinja").unlink(), "no chat template"),
    "no tokenizer": (lose_tokenizer, "does not load"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_directory_is_named_with_what_is_wrong(
    name: str, tiny_dirs: dict[str, Path], tmp_path: Path
) -> None:
    damage, says = BROKEN[name]
    folder = copy_of(tiny_dirs["one-group"], tmp_path / "model")
    damage(folder)
    with pytest.raises(EngineError, match=says) as caught:
        TorchEngine(folder)
    assert str(caught.value).startswith(f"{folder}: ")


@pytest.mark.parametrize("model", ["no/such/model", "./nowhere", "tiny-r2"])
def test_a_missing_directory_is_named_with_what_would_do(model: str) -> None:
    with pytest.raises(EngineError, match=r"no such directory; a model is tiny-r1, a directory"):
        locate(model)


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of downloads, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_hub_id_that_cannot_be_had_is_named_with_what_would_do(offline_hub: Path) -> None:
    with pytest.raises(EngineError, match=r"^someone/model: .* as a Hugging Face id .*its path$"):
        TorchEngine("someone/model")


def test_a_downloaded_hub_id_is_opened_under_its_id(
    offline_hub: Path, tiny_dirs: dict[str, Path]
) -> None:
    repository = offline_hub / "models--someone--model"
    (repository / "snapshots").mkdir(parents=True)
    copy_of(tiny_dirs["one-group"], repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    with (
        TorchEngine("someone/model", batch_size=1) as opened,
        TorchEngine(tiny_dirs["one-group"], batch_size=1) as same,
    ):
        assert opened.identity.model == "someone/model"
        assert same.identity.model == "one-group"
        assert opened.identity.revision == same.identity.revision != ""
        text = [parse_response(r).text for r in opened.answer([ask("x", way=WAYS[2])])]
        assert text == [parse_response(r).text for r in same.answer([ask("x", way=WAYS[2])])]


def test_another_weight_is_another_revision(
    build_tiny: Build, save_tiny: Save, tmp_path: Path
) -> None:
    model = build_tiny("llama")
    revisions = []
    for number in range(2):
        with TorchEngine(save_tiny(model, tmp_path / f"{number}"), batch_size=1) as opened:
            revisions.append(opened.identity.revision)
        model.lm_head.weight[0, 0] += 1
    assert len(set(revisions)) == 2


def test_a_prompt_that_the_template_refuses_is_an_error_of_its_own(
    tiny_dirs: dict[str, Path], tmp_path: Path
) -> None:
    folder = copy_of(tiny_dirs["one-group"], tmp_path / "strict")
    template = (folder / "chat_template.jinja").read_text()
    refuse = "{% if 'no' in messages[0].content %}{{ raise_exception('not that') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refuse + template)
    with TorchEngine(folder, batch_size=1, lanes=1) as opened:
        found: dict[str, Response] = {
            r.request.prompt.messages[0].content: r
            for r in opened.answer([ask("no"), ask("yes", tokens=2)])
        }
    assert found["no"].error == "the chat template refuses the prompt: not that"
    assert parse_response(found["yes"]).completion_tokens == 2


def test_wrong_settings_are_named(tiny_dirs: dict[str, Path]) -> None:
    with pytest.raises(EngineError, match="batch_size must be at least 1, got 0"):
        TorchEngine(tiny_dirs["one-group"], batch_size=0)

"""Engines: each keeps the same protocol, and the real ones say what the weights know."""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from persona.card import Card
from persona.engines import openvino as openvino_module
from persona.engines.base import (
    Delta,
    Engine,
    EngineError,
    Finish,
    ModelThread,
    Request,
    Sampling,
    TextStream,
)
from persona.engines.echo import EchoEngine
from persona.engines.openvino import OpenVINOEngine
from persona.engines.transformers import TransformersEngine
from persona.prompt import Budget, Exchange, PromptBuilder
from persona.tokenizer import ChatTokenizer
from persona.weights import Weights

SECONDS = 30
GREEDY = Sampling(max_new_tokens=64, temperature=0.0, repetition_penalty=1.0)
LONG = Sampling(max_new_tokens=800, temperature=0.0, repetition_penalty=1.0)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return Weights(tmp_path_factory.mktemp("var"), [])


@pytest.fixture(scope="session")
def graph(weights: Weights, gguf: Path) -> Path:
    return weights.for_openvino(weights.base(str(gguf)))


@pytest.fixture(scope="session")
def folder(weights: Weights, gguf: Path) -> Path:
    return weights.for_transformers(weights.base(str(gguf)))


@pytest_asyncio.fixture
async def on_openvino(graph: Path) -> AsyncIterator[OpenVINOEngine]:
    engine = OpenVINOEngine(cache_tokens=8192, max_chats=8)
    async with asyncio.timeout(SECONDS):
        await engine.load(graph)
        yield engine
        await engine.close()


@pytest_asyncio.fixture
async def on_transformers(folder: Path) -> AsyncIterator[TransformersEngine]:
    engine = TransformersEngine("cpu", cache_tokens=8192, max_chats=8)
    async with asyncio.timeout(SECONDS):
        await engine.load(folder)
        yield engine
        await engine.close()


@pytest_asyncio.fixture(params=["openvino", "transformers"])
async def engine(
    request: pytest.FixtureRequest, graph: Path, folder: Path
) -> AsyncIterator[OpenVINOEngine | TransformersEngine]:
    """Each real engine in turn, with the same numbers for weights."""
    made: OpenVINOEngine | TransformersEngine
    if request.param == "openvino":
        made, base = OpenVINOEngine(cache_tokens=8192, max_chats=8), graph
    else:
        made, base = TransformersEngine("cpu", cache_tokens=8192, max_chats=8), folder
    async with asyncio.timeout(SECONDS):
        await made.load(base)
    yield made
    async with asyncio.timeout(SECONDS):
        await made.close()


@pytest.fixture(scope="session")
def builder(bpe: ChatTokenizer, card: Card) -> PromptBuilder:
    return PromptBuilder(bpe, card, Budget())


async def said(
    engine: Engine, ids: Sequence[int], sampling: Sampling = GREEDY
) -> tuple[str, list[Delta]]:
    async with asyncio.timeout(SECONDS):
        deltas = [delta async for delta in engine.generate(ids, sampling)]
    return "".join(delta.text for delta in deltas), deltas


async def test_a_reply_is_what_the_weights_know(
    engine: Engine, builder: PromptBuilder, taught: dict[str, str]
) -> None:
    for text, reply in taught.items():
        heard, deltas = await said(engine, builder.build(text).ids)
        assert heard == reply
        assert [d.finish for d in deltas if d.finish] == [Finish.STOP]
        assert deltas[-1].finish
        assert sum(d.tokens for d in deltas) == builder.tokenizer.count(reply) + 1


async def test_both_engines_choose_the_same_tokens(
    graph: Path, folder: Path, builder: PromptBuilder, taught: dict[str, str]
) -> None:
    past = [Exchange(text, reply) for text, reply in taught.items()]
    prompts = [
        *(builder.build(text).ids for text in taught),
        *(builder.build(text, past[:1]).ids for text in taught),
        builder.build("窗前", past).ids,
    ]
    prompts = [ids for ids in prompts if _clearest(folder, ids, 8)]
    assert len(prompts) >= 4
    short = Sampling(max_new_tokens=8, temperature=0.0, repetition_penalty=1.0)
    replies = []
    for made, base in (
        (OpenVINOEngine(8192, 8), graph),
        (TransformersEngine("cpu", 8192, 8), folder),
    ):
        async with asyncio.timeout(SECONDS):
            await made.load(base)
            try:
                replies.append([(await said(made, ids, short))[0] for ids in prompts])
            finally:
                await made.close()
    assert replies[0] == replies[1]


def _clearest(folder: Path, ids: Sequence[int], tokens: int) -> bool:
    """Whether the greedy choice stays ahead of the next best by more than rounding can turn."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    so_far = list(ids)
    with torch.no_grad():
        for _ in range(tokens):
            best = model(torch.tensor([so_far])).logits[0, -1].topk(2)
            if best.values[0] - best.values[1] < 0.7:
                return False
            so_far.append(int(best.indices[0]))
    return True


async def test_a_character_of_several_tokens_comes_whole(
    engine: Engine, builder: PromptBuilder, taught: dict[str, str]
) -> None:
    assert builder.tokenizer.count("😀") > 1

    heard, deltas = await said(engine, builder.build("下雨了").ids)

    assert heard == taught["下雨了"]
    assert all("\ufffd" not in delta.text for delta in deltas)
    assert any("😀" in delta.text for delta in deltas)


async def test_a_reply_ends_at_the_token_limit(engine: Engine, builder: PromptBuilder) -> None:
    _, deltas = await said(engine, builder.build("你好").ids, Sampling(3, 0.0, 1.0, 1.0))
    assert sum(d.tokens for d in deltas) == 3
    assert deltas[-1].finish is Finish.LENGTH


async def test_eight_at_once_all_finish(
    engine: Engine, builder: PromptBuilder, taught: dict[str, str]
) -> None:
    texts = [*taught, *taught]
    async with asyncio.timeout(SECONDS):
        replies = await asyncio.gather(*(said(engine, builder.build(text).ids) for text in texts))
    assert [heard for heard, _ in replies] == [taught[text] for text in texts]
    assert engine.stats().running == 0


async def test_closing_a_reply_early_lets_the_engine_go_on(
    engine: Engine, builder: PromptBuilder, taught: dict[str, str]
) -> None:
    endless = builder.build("念经").ids
    async with asyncio.timeout(SECONDS):
        for _ in range(20):  # far more together than the cache holds
            reply: Any = engine.generate(endless, LONG)
            await anext(reply)
            assert engine.stats().running == 1
            await reply.aclose()
            assert engine.stats().running == 0
    heard, _ = await said(engine, builder.build("你好").ids)
    assert heard == taught["你好"]


async def test_a_cancelled_listener_frees_its_place(
    engine: Engine, builder: PromptBuilder, taught: dict[str, str]
) -> None:
    endless = builder.build("念经").ids
    begun = asyncio.Event()

    async def listen() -> None:
        async for _ in engine.generate(endless, LONG):
            begun.set()

    async with asyncio.timeout(SECONDS):
        task = asyncio.create_task(listen())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # An abandoned iterator is closed by the loop; the next reply shows that it was.
    heard, _ = await said(engine, builder.build("你好").ids)
    assert heard == taught["你好"]
    assert engine.stats().running == 0


async def test_closing_the_engine_ends_open_replies_with_an_error(
    engine: Engine, builder: PromptBuilder
) -> None:
    ids = builder.build("念经").ids
    async with asyncio.timeout(SECONDS):
        reply: Any = engine.generate(ids, LONG)
        await anext(reply)
        await engine.close()
        with pytest.raises(EngineError):
            async for _ in reply:
                pass
        with pytest.raises(EngineError, match="not loaded"):
            await said(engine, ids)
        await engine.close()


async def test_an_engine_that_is_not_loaded_says_so() -> None:
    for unloaded in (OpenVINOEngine(2048, 1), TransformersEngine("cpu", 2048, 1)):
        with pytest.raises(EngineError, match="not loaded"):
            await said(unloaded, [1])


async def test_a_folder_without_a_model_is_an_engine_error(tmp_path: Path, qwen: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((qwen / "tokenizer.json").read_bytes())
    for made in (OpenVINOEngine(2048, 1), TransformersEngine("cpu", 2048, 1)):
        with pytest.raises(EngineError, match="cannot load"):
            async with asyncio.timeout(SECONDS):
                await made.load(tmp_path)


async def test_openvino_refuses_a_prompt_beyond_its_cache(graph: Path) -> None:
    made = OpenVINOEngine(cache_tokens=64, max_chats=1)
    async with asyncio.timeout(SECONDS):
        await made.load(graph)
        try:
            with pytest.raises(EngineError, match="60 tokens does not fit"):
                await anext(made.generate([1] * 60, GREEDY))
        finally:
            await made.close()


async def test_openvino_starts_again_after_its_process_was_killed(
    graph: Path, builder: PromptBuilder
) -> None:
    ids = builder.build("你好").ids
    made = OpenVINOEngine(cache_tokens=2048, max_chats=1)
    async with asyncio.timeout(SECONDS):
        await made.load(graph)
        try:
            before, _ = await said(made, ids)
            assert made._worker is not None
            made._worker._process.kill()
            with pytest.raises(EngineError, match="ended with code -9"):
                await said(made, ids)
            assert (await said(made, ids))[0] == before
        finally:
            await made.close()


OWNER = """
import asyncio, sys
from pathlib import Path
from persona.engines.openvino import OpenVINOEngine

async def main():
    engine = OpenVINOEngine(cache_tokens=2048, max_chats=1)
    await engine.load(Path(sys.argv[1]))
    print(engine._worker._process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_openvinos_process_hears_no_ctrl_c_and_ends_with_the_bot(graph: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(graph)], stdout=subprocess.PIPE, text=True,
        process_group=0, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert owner.stdout
        worker = psutil.Process(int(owner.stdout.readline()))
        # A terminal's Ctrl-C goes to the group of the bot.
        assert os.getpgid(worker.pid) == worker.pid != os.getpgid(owner.pid)
    finally:
        owner.kill()
        owner.communicate(timeout=SECONDS)
    psutil.wait_procs([worker], timeout=SECONDS)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


async def test_openvino_finishes_more_chats_than_its_cache_holds_at_once(
    graph: Path, builder: PromptBuilder, taught: dict[str, str]
) -> None:
    prompts = {text: builder.build(text).ids for text in taught}
    made = OpenVINOEngine(cache_tokens=max(map(len, prompts.values())) + 64, max_chats=8)
    async with asyncio.timeout(SECONDS):
        await made.load(graph)
        try:
            replies = await asyncio.gather(*(said(made, prompts[t]) for t in [*taught, *taught]))
        finally:
            await made.close()
    assert [heard for heard, _ in replies] == [*taught.values(), *taught.values()]


async def test_openvino_spends_no_step_on_a_reply_that_was_closed(
    graph: Path, builder: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless, looks = builder.build("念经").ids, 0
    hand_out = openvino_module._hand_out

    def counted(*arguments: Any) -> bool:
        nonlocal looks
        looks += 1
        return hand_out(*arguments)

    monkeypatch.setattr(openvino_module, "_hand_out", counted)
    made = OpenVINOEngine(cache_tokens=2048, max_chats=2)
    async with asyncio.timeout(SECONDS):
        await made.load(graph)
        try:
            reply: Any = made.generate(endless, LONG)
            await anext(reply)
            await reply.aclose()
            _, deltas = await said(made, endless, Sampling(300, 0.0, 1.0, 1.0))
        finally:
            await made.close()
    assert len(deltas) == 300
    assert looks < 500  # were both still going, each step would look at both


async def test_an_endless_reply_goes_on_to_the_limit(
    engine: Engine, builder: PromptBuilder
) -> None:
    heard, deltas = await said(engine, builder.build("念经").ids, Sampling(200, 0.0, 1.0, 1.0))
    assert heard.startswith("啊" * 40)
    assert deltas[-1].finish is Finish.LENGTH


async def test_openvino_takes_no_adapter_beside_the_weights(graph: Path, adapter: Path) -> None:
    with pytest.raises(EngineError, match="merged"):
        await OpenVINOEngine(2048, 1).load(graph, adapter)


async def test_an_error_in_the_model_thread_reaches_every_listener(
    graph: Path, builder: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bool:
        raise ValueError("the cable is out")

    ids = builder.build("你好").ids
    made = OpenVINOEngine(cache_tokens=2048, max_chats=2)
    async with asyncio.timeout(SECONDS):
        await made.load(graph)
        monkeypatch.setattr(openvino_module, "_hand_out", broken)
        try:
            for _ in range(2):
                with pytest.raises(EngineError, match="the cable is out"):
                    await said(made, ids)
            assert made.stats().running == 0
        finally:
            await made.close()


async def test_an_error_in_transformers_own_thread_reaches_the_listener(
    folder: Path, builder: PromptBuilder
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the cable is out")

    ids = builder.build("你好").ids
    made = TransformersEngine("cpu", cache_tokens=2048, max_chats=2)
    async with asyncio.timeout(SECONDS):
        await made.load(folder)
        try:
            assert made._manager is not None
            made._manager.model.forward = broken
            with pytest.raises(EngineError, match="the cable is out"):
                await said(made, ids)
            with pytest.raises(EngineError):
                await said(made, ids)
            assert made.stats().running == 0
        finally:
            await made.close()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # peft's, of transformers
async def test_an_adapter_changes_what_both_engines_say(
    weights: Weights,
    gguf: Path,
    folder: Path,
    adapter: Path,
    builder: PromptBuilder,
    taught: dict[str, str],
) -> None:
    ids = builder.build("你好").ids
    made = TransformersEngine("cpu", 2048, 2)
    async with asyncio.timeout(SECONDS):
        await made.load(folder, adapter)
        try:
            heard, _ = await said(made, ids)
        finally:
            await made.close()
    merged = OpenVINOEngine(2048, 2)
    async with asyncio.timeout(SECONDS):
        await merged.load(weights.for_openvino(weights.base(str(gguf)), adapter))
        try:
            other, _ = await said(merged, ids)
        finally:
            await merged.close()
    assert heard != taught["你好"]
    assert other != taught["你好"]


# --- the stream of text ---


@settings(max_examples=80, deadline=None)
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=40),
    sizes=st.lists(st.integers(1, 5), min_size=1),
)
def test_a_stream_gives_the_text_and_never_half_a_character(
    tokenizer: ChatTokenizer, text: str, sizes: list[int]
) -> None:
    ids = tokenizer.encode(text)
    stream = TextStream(tokenizer.full)
    pieces: list[str] = []
    while ids:
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(stream.push(ids[:size]))
        ids = ids[size:]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) == tokenizer.decode(tokenizer.encode(text))


def test_a_stream_waits_for_the_last_byte_of_a_character(raw_bytes: ChatTokenizer) -> None:
    stream = TextStream(raw_bytes.full)
    assert [stream.push([i]) for i in raw_bytes.encode("竹a")] == ["", "", "竹", "a"]


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(0, 255), max_size=30))
def test_a_stream_survives_bytes_that_make_no_character(
    raw_bytes: ChatTokenizer, ids: list[int]
) -> None:
    stream = TextStream(raw_bytes.full)
    stream.push(ids)
    assert stream.push(raw_bytes.encode(" ok")).endswith("ok")


def test_a_stream_leaves_markers_out(raw_bytes: ChatTokenizer) -> None:
    stream = TextStream(raw_bytes.full)
    assert stream.push([*raw_bytes.encode("a"), raw_bytes.im_end, *raw_bytes.encode("b")]) == "ab"


# --- the thread that owns a model ---


def counting(inbox: queue.SimpleQueue[Request | None]) -> None:
    """A model that says its prompt's ids as digits, and breaks at a negative one."""
    while request := inbox.get():
        for number, i in enumerate(request.ids):
            if i < 0:
                raise ValueError("a negative id")
            last = number == len(request.ids) - 1
            request.emit(Delta(str(i), 1, Finish.STOP if last else None))


async def test_a_request_gets_its_own_answer() -> None:
    thread = ModelThread("counting", counting)
    thread.start()
    async with asyncio.timeout(SECONDS):

        async def ask(*ids: int) -> str:
            return "".join([d.text async for d in thread.generate(ids, GREEDY)])

        heard = await asyncio.gather(ask(1, 2), ask(3), ask(4, 5, 6))
        assert list(heard) == ["12", "3", "456"]
        assert thread.running == 0
        await thread.stop()
    assert not thread.is_alive()


async def test_a_broken_model_fails_the_open_request_and_all_later_ones() -> None:
    thread = ModelThread("counting", counting)
    thread.start()
    async with asyncio.timeout(SECONDS):
        for ids in ([1, -1], [1]):
            with pytest.raises(EngineError, match="a negative id"):
                async for _ in thread.generate(ids, GREEDY):
                    pass
        assert thread.running == 0
        await thread.stop()


async def test_a_stopped_thread_ends_what_is_still_open() -> None:
    def hesitant(inbox: queue.SimpleQueue[Request | None]) -> None:
        while request := inbox.get():
            request.emit(Delta("a"))

    thread = ModelThread("hesitant", hesitant)
    thread.start()
    async with asyncio.timeout(SECONDS):
        reply: Any = thread.generate([1], GREEDY)
        await anext(reply)
        await thread.stop()
        with pytest.raises(EngineError, match="closed"):
            await anext(reply)
        assert thread.running == 0


async def test_a_closed_request_is_marked_for_the_model() -> None:
    seen: list[Request] = []

    def patient(inbox: queue.SimpleQueue[Request | None]) -> None:
        while request := inbox.get():
            seen.append(request)
            request.emit(Delta("a"))

    thread = ModelThread("patient", patient)
    thread.start()
    async with asyncio.timeout(SECONDS):
        reply: Any = thread.generate([1], GREEDY)
        assert (await anext(reply)).text == "a"
        assert not seen[0].cancelled.is_set()
        await reply.aclose()
        assert seen[0].cancelled.is_set()
        await thread.stop()


def test_a_second_attempt_draws_from_another_seed() -> None:
    assert Sampling(seed=7).again(2).seed == 9
    assert Sampling().again(2).seed is None


# --- the engine without a model ---


async def test_echo_repeats_the_last_message(raw_bytes: ChatTokenizer, card: Card) -> None:
    builder = PromptBuilder(raw_bytes, card, Budget())
    engine = EchoEngine()
    heard, deltas = await said(engine, builder.build("竹", [Exchange("花", "落了")]).ids)
    assert heard == "竹"
    assert deltas[-1].finish is Finish.STOP
    assert engine.prompts[0].endswith("竹<|im_end|>\n<|im_start|>assistant\n")


async def test_echo_says_what_was_queued_in_order_then_echoes() -> None:
    engine = EchoEngine(replies=["一", "二"])
    assert [(await said(engine, []))[0] for _ in range(3)] == ["一", "二", ""]


async def test_echo_raises_what_was_queued() -> None:
    own = EngineError("no")
    engine = EchoEngine(replies=[ValueError("bad"), own, ("半句", RuntimeError("cut"))])
    with pytest.raises(EngineError, match="bad"):
        await said(engine, [])
    with pytest.raises(EngineError) as raised:
        await said(engine, [])
    assert raised.value is own
    reply: Any = engine.generate([], GREEDY)
    heard = "".join([(await anext(reply)).text for _ in range(6)])
    assert heard == "半句"  # a token for each of its bytes
    with pytest.raises(EngineError, match="cut"):
        await anext(reply)
    assert (engine.running, engine.cancelled) == (0, 0)


async def test_echo_keeps_the_token_limit() -> None:
    heard, deltas = await said(EchoEngine(replies=["abcdef"]), [], Sampling(max_new_tokens=3))
    assert heard == "abc"
    assert deltas[-1].finish is Finish.LENGTH


async def test_echo_counts_what_was_closed_early() -> None:
    engine = EchoEngine(replies=["abc"])
    reply: Any = engine.generate([], GREEDY)
    await anext(reply)
    assert engine.stats().running == 1
    await reply.aclose()
    assert (engine.stats().running, engine.cancelled) == (0, 1)

"""The inference service: admission, fairness, cancellation, what it counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona import guard
from persona.admission import Admission, Busy, Late
from persona.card import Card
from persona.config import PROFILES
from persona.engines.base import EngineError
from persona.engines.echo import EchoEngine, byte_tokenizer
from persona.exemplars import ExemplarIndex
from persona.guard import Alarm, AuthoredReplies
from persona.prompt import Budget, Exchange, PromptBuilder, PromptTooLong
from persona.reply import TAUGHT, Reply, whole_sentences
from persona.sense import Sense
from persona.service import InferenceService

SECONDS = 10
FOLDER = Path(__file__).parents[2] / "persona" / "daiyu"


def serve(engine: EchoEngine, **options: float) -> InferenceService:
    return InferenceService(
        engine,
        PromptBuilder(engine.tokenizer, Card(name="林黛玉"), Budget(2000, 400, 400)),
        ExemplarIndex([Exchange("下雨了", "听雨罢。", "rain:1")]),
        AuthoredReplies(FOLDER / "guard.toml", {"zh": "12356", "en": "988"}),
        PROFILES["daiyu"],
        version="v1",
        **options,  # type: ignore[arg-type]
    )


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Fails what is stuck."""
    async with asyncio.timeout(SECONDS):
        yield


async def heard(reply: Reply) -> list[str]:
    async with in_time():
        return [text async for text in reply]


async def settle() -> None:
    """Lets every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_reply_grows_by_whole_clauses() -> None:
    engine = EchoEngine(replies=["来了，坐罢。茶凉了"])
    reply = serve(engine).reply("你好")
    assert await heard(reply) == ["来了，", "来了，坐罢。", "来了，坐罢。茶凉了"]
    assert reply.outcome.text == "来了，坐罢。茶凉了"
    assert reply.outcome.attempts == 1


AUTHORED = ["茶凉了，我叫紫鹃换一盏来。", "雨还没停，你坐一会儿再走。", "你来了，坐罢，茶是热的。"]
SALAD = "茶茶凉了叫，雨你坐叫紫鹃是雨。"


def choosing(engine: EchoEngine, candidates: int = 3, **options: float) -> InferenceService:
    return serve(engine, sense=Sense(AUTHORED), candidates=candidates, **options)  # type: ignore[arg-type]


async def test_of_several_candidates_the_one_with_sense_is_spoken() -> None:
    engine = EchoEngine(replies=[SALAD, "茶凉了，我叫紫鹃换一盏来。", SALAD])
    reply = choosing(engine).reply("有茶么")
    assert await heard(reply) == ["茶凉了，我叫紫鹃换一盏来。"]
    assert (reply.outcome.candidates, reply.outcome.attempts) == (3, 1)
    assert reply.outcome.reply_tokens == len(reply.outcome.text.encode())
    assert engine.running == 0


async def test_what_people_taught_her_is_spoken_at_once() -> None:
    taught, fluent = "龟不吃叶，切一片苹果。", "茶凉了，我叫紫鹃换一盏来。"
    service = choosing(EchoEngine(replies=[fluent, taught, SALAD] * 2))
    assert (await heard(service.reply("龟不吃叶")))[-1] == fluent
    exemplar = Exchange("龟不吃叶子", taught, f"{TAUGHT}7")
    service.exemplars = service.exemplars.with_learned([exemplar], {})
    assert (await heard(service.reply("龟不吃叶")))[-1] == taught


async def test_what_was_said_already_is_the_last_to_be_spoken() -> None:
    said, other = "茶凉了，我叫紫鹃换一盏来。", "雨叫你坐，茶凉了。"
    engine = EchoEngine(replies=[said, other, SALAD])
    history = [Exchange("茶呢", said[:8] + "，换一盏来。")]
    assert (await heard(choosing(engine).reply("有茶么", history)))[-1] != said


async def test_candidates_without_sense_are_made_once_more_and_the_best_of_all_is_spoken() -> None:
    engine = EchoEngine(replies=[SALAD, "茶是雨叫。", SALAD, SALAD, SALAD, SALAD])
    reply = choosing(engine).reply("有茶么")
    [spoken] = await heard(reply)
    likely = Sense(AUTHORED).share
    assert likely(spoken, "有茶么") == max(likely(text, "有茶么") for text in (SALAD, "茶是雨叫。"))
    assert (reply.outcome.candidates, reply.outcome.attempts) == (6, 2)


async def test_what_the_guard_refuses_is_no_candidate() -> None:
    refused = "作为一个人工智能，我没有茶。"
    engine = EchoEngine(replies=[refused, SALAD, refused, refused, refused, refused])
    reply = choosing(engine).reply("有茶么")
    assert await heard(reply) == [SALAD]
    engine = EchoEngine(replies=[refused] * 6)
    reply = choosing(engine).reply("有茶么")
    [spoken] = await heard(reply)
    assert reply.outcome.guarded is Alarm.ASSISTANT
    assert "人工智能" not in spoken


async def test_failing_candidate_ends_the_others_and_reaches_the_caller() -> None:
    engine = EchoEngine(replies=["好。" * 40, EngineError("broken"), "好。" * 40])
    with pytest.raises(EngineError, match="broken"):
        await heard(choosing(engine).reply("有茶么"))
    assert engine.running == 0


async def test_cancelled_reply_ends_all_its_candidates() -> None:
    engine = EchoEngine(delay=0.01)
    service = choosing(engine)
    task = asyncio.ensure_future(heard(service.reply("一句很长很长的话，说不完")))
    await asyncio.sleep(0.03)
    assert engine.running == 3
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.running == 0


async def test_the_more_people_wait_the_fewer_candidates_each_gets() -> None:
    engine = EchoEngine(delay=0.001)
    service = choosing(engine, candidates=4, max_chats=16)
    replies = [service.reply(f"第{number}句话") for number in range(8)]
    await asyncio.gather(*(heard(reply) for reply in replies))
    assert min(reply.outcome.candidates for reply in replies) == 1
    alone = service.reply("只我一个")
    await heard(alone)
    assert alone.outcome.candidates == 4 * alone.outcome.attempts


async def test_rejected_reply_is_no_exemplar_and_not_said_again() -> None:
    engine = EchoEngine(replies=["听雨罢，听雨罢，听一夜的雨罢。", "雨停了。"])
    reply = serve(engine).reply("下雨了", rejected=["听雨罢，听雨罢，听一夜的雨罢。", "听雨罢。"])
    assert (await heard(reply))[-1] == "雨停了。"
    assert reply.outcome.exemplars == ()


async def test_outcome_names_exemplars_and_counts_tokens() -> None:
    engine = EchoEngine(replies=["好。"])
    reply = serve(engine).reply("下雨了", [Exchange("前", "后", "1")])
    await heard(reply)
    assert reply.outcome.exemplars == ("rain:1",)
    assert "听雨罢。" in engine.prompts[0]
    assert reply.outcome.reply_tokens == len("好。".encode())
    assert reply.outcome.prompt_tokens > reply.outcome.reply_tokens
    assert reply.outcome.dropped == 0


async def test_stats_count_turns_and_who_waits() -> None:
    engine = EchoEngine(delay=0.001)
    service = serve(engine, max_chats=1)
    assert service.stats().turns == 0

    async def turn(chat: int) -> None:
        async with service.admit(chat):
            await heard(service.reply("在么"))

    async with asyncio.TaskGroup() as group:
        for chat in range(3):
            group.create_task(turn(chat))
        await asyncio.sleep(0.003)
        stats = service.stats()
        assert (stats.running, stats.waiting, stats.engine.running) == (1, 2, 1)
    stats = service.stats()
    assert (stats.running, stats.waiting, stats.turns) == (0, 0, 3)
    assert 0 < stats.first_token_p50 <= stats.first_token_p95
    assert stats.tokens_per_second > 0
    assert stats.engine.name == "echo"


async def test_places_go_to_who_came_first() -> None:
    engine = EchoEngine()
    service = serve(engine, max_chats=1)
    ended: list[int] = []

    async def turn(chat: int) -> None:
        async with service.admit(chat):
            await heard(service.reply(f"话{chat}"))
        ended.append(chat)

    async with in_time():
        await asyncio.gather(*(turn(chat) for chat in range(8)))
    assert ended == list(range(8))


async def test_engine_error_reaches_the_caller_and_frees_the_place() -> None:
    engine = EchoEngine(replies=[("花落，", EngineError("broken")), "好。"])
    service = serve(engine, max_chats=1)
    reply = service.reply("你好")
    with pytest.raises(EngineError, match="broken"):
        await heard(reply)
    assert reply.outcome.text == "花落，"
    assert await heard(service.reply("你好")) == ["好。"]


async def test_too_long_a_message_never_reaches_the_engine() -> None:
    engine = EchoEngine()
    with pytest.raises(PromptTooLong):
        await heard(serve(engine).reply("长" * 2000))
    assert engine.prompts == []


async def test_leaving_a_reply_early_frees_the_engine_at_once() -> None:
    engine = EchoEngine(replies=["一，二，三。"])
    texts = aiter(serve(engine).reply("你好"))
    assert await anext(texts) == "一，"
    await texts.aclose()
    assert (engine.running, engine.cancelled) == (0, 1)


async def test_refused_attempt_is_ended_before_the_next_begins() -> None:
    engine = EchoEngine(replies=["我是人工智能助手。" + "好" * 9 + "。", "来了。"])
    service = serve(engine, max_chats=1)
    assert await heard(service.reply("你好")) == ["来了。"]
    assert (engine.running, engine.cancelled) == (0, 1)


async def test_saying_a_stretch_of_an_earlier_reply_again_is_generated_anew_once() -> None:
    history = [Exchange("一", "你只管去，我在潇湘馆里等你回来。"), Exchange("二", "嗯。")]
    again = "罢了，我在潇湘馆里等你回来，别误了饭。"
    engine = EchoEngine(replies=[again, "早些回来。", again, again])
    service = serve(engine)
    assert (await heard(service.reply("三", history)))[-1] == "早些回来。"
    stubborn = service.reply("四", history)
    assert (await heard(stubborn))[-1] == again
    assert stubborn.outcome.attempts == 2
    assert stubborn.outcome.guarded is None


async def test_repeating_the_last_reply_is_generated_anew() -> None:
    said = "今儿风大，你把窗关上罢。"
    engine = EchoEngine(replies=[said, "早关上了。"])
    reply = serve(engine).reply("冷么", [Exchange("你好", said)])
    assert (await heard(reply))[-1] == "早关上了。"
    assert reply.outcome.attempts == 2


async def test_authored_replies_walk_through_their_wordings() -> None:
    service = serve(EchoEngine())
    said = {(await heard(service.reply("我不想活了", turn=turn)))[0] for turn in range(3)}
    assert len(said) == 3
    assert all("12356" in text for text in said)


async def test_risk_is_named_in_the_outcome() -> None:
    engine = EchoEngine()
    reply = serve(engine).reply("我不想活了")
    await heard(reply)
    assert reply.outcome.guarded is Alarm.RISK
    assert engine.prompts == []


async def test_history_is_dropped_oldest_first_and_counted() -> None:
    engine = EchoEngine(replies=["好。"])
    reply = serve(engine).reply("你好", [Exchange("旧" * 700, "嗯"), Exchange("新", "是")])
    await heard(reply)
    assert reply.outcome.dropped == 1
    assert "旧" not in engine.prompts[0]
    assert "新" in engine.prompts[0]


# Admission.


class Line:
    """Turns of one conversation, each held until it is let go."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.inside: list[str] = []
        self.done: list[str] = []

    def turn(self, name: str, chat: str = "a") -> tuple[asyncio.Task[None], asyncio.Event]:
        go = asyncio.Event()

        async def run() -> None:
            async with self.admission.admit(chat):
                self.inside.append(name)
                await go.wait()
                self.inside.remove(name)
                self.done.append(name)

        return asyncio.create_task(run()), go


async def test_turns_of_a_chat_follow_each_other() -> None:
    line = Line(Admission(9, SECONDS))
    turns = [line.turn(name) for name in "123"]
    for (task, go), name in zip(turns, "123", strict=True):
        await settle()
        assert line.inside == [name]
        go.set()
        await task
    assert line.done == ["1", "2", "3"]
    assert line.admission.admitted == 0


async def test_full_queue_refuses_at_once_with_an_estimate() -> None:
    admission = Admission(1, SECONDS)
    for seconds in (2.0, 3.0, 40.0):
        admission.note(seconds)
    async with admission.admit("a"):
        with pytest.raises(Busy) as refused:
            async with admission.admit("b"):
                pytest.fail("it was full")
    assert (refused.value.waiting, refused.value.seconds) == (1, 3.0)
    async with admission.admit("b"):
        pass


async def test_deadline_counts_the_waiting() -> None:
    admission = Admission(9, 0.02)
    line = Line(Admission(9, SECONDS))
    line.admission = admission
    (first, _), (second, _) = line.turn("1"), line.turn("2")
    async with in_time():
        for task in (first, second):
            with pytest.raises(Late):
                await task
        async with admission.admit("a"):
            assert admission.admitted == 1


async def test_a_turn_can_tell_its_deadline_from_a_cancellation() -> None:
    told: list[bool] = []

    async def turn(admission: Admission) -> None:
        async with admission.admit("a") as deadline:
            try:
                await asyncio.Event().wait()
            finally:
                told.append(deadline.expired())

    async with in_time():
        with pytest.raises(Late):
            await turn(Admission(9, 0.01))
        cancelled = asyncio.create_task(turn(Admission(9, SECONDS)))
        await settle()
        cancelled.cancel()
        await asyncio.wait([cancelled])
    assert told == [True, False]


async def test_who_gives_up_waiting_leaves_the_line() -> None:
    line = Line(Admission(9, SECONDS))
    (first, go1), (second, _), (third, go3) = (line.turn(name) for name in "123")
    await settle()
    second.cancel()
    await settle()
    go1.set()
    go3.set()
    async with in_time():
        await asyncio.gather(first, third)
    assert line.done == ["1", "3"]


async def test_giving_up_in_the_moment_of_the_turn_blocks_nobody() -> None:
    line = Line(Admission(9, SECONDS))
    (first, go1), (second, _), (third, go3) = (line.turn(name) for name in "123")
    await settle()
    go1.set()
    go3.set()
    await asyncio.sleep(0)  # the first is about to leave the line
    second.cancel()
    async with in_time():
        await asyncio.gather(first, third)
    assert line.done == ["1", "3"]
    assert line.admission.admitted == 0


@given(
    moves=st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["go", "cancel", "settle", "step"])),
        max_size=30,
    )
)
def test_whatever_is_cancelled_the_rest_get_their_turn(moves: list[tuple[int, str]]) -> None:
    async def check() -> None:
        line = Line(Admission(9, SECONDS))
        turns = [line.turn(str(i)) for i in range(6)]
        cancelled = set()
        for i, move in moves:
            task, go = turns[i]
            if move == "go":
                go.set()
            elif move == "cancel":
                task.cancel()
                cancelled.add(str(i))
            elif move == "settle":
                await settle()
            else:
                await asyncio.sleep(0)
        for _, go in turns:
            go.set()
        async with in_time():
            ended = await asyncio.gather(*(task for task, _ in turns), return_exceptions=True)
        assert line.admission.admitted == 0
        assert not [e for e in ended if isinstance(e, Exception)]
        kept = {str(i) for i, end in enumerate(ended) if end is None}
        assert kept >= {str(i) for i in range(6)} - cancelled
        assert line.done == sorted(line.done)
        assert set(line.done) == kept

    asyncio.run(check())


# Where a reply is cut.


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("花开了。风大，我", "花开了。"),
        ("他说：“罢了。”我", "他说：“罢了。”"),
        ("风大，我冷", "风大，我冷……"),
        ("风大，", "风大……"),
        ("", ""),
        (" 完了。 ", "完了。"),
    ],
)
def test_cut_reply_ends_at_a_sentence(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


@given(st.text(st.sampled_from("花a。，！”…. \n"), max_size=40))
def test_cut_reply_says_nothing_new(text: str) -> None:
    whole = whole_sentences(text)
    assert text.strip().startswith(whole.removesuffix("……")) or whole == text.strip()


def test_byte_tokenizer_suits_the_guard() -> None:
    ids = byte_tokenizer().encode("<|im_start|>")
    assert not byte_tokenizer().added_ids() & set(ids)
    assert guard.after("<|im_start|>") is Alarm.CONTROL

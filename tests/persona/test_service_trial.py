"""Two engines under one service: some chats hear the one on trial, and no turn is lost by it."""

from __future__ import annotations

import asyncio

from test_service import heard, in_time, serve, settle

from persona.card import Card
from persona.engines.echo import EchoEngine
from persona.prompt import Budget, PromptBuilder
from persona.service import InferenceService


class ClosableEngine(EchoEngine):
    """Tells when it was closed."""

    closed = False

    async def close(self) -> None:
        self.closed = True


def try_out(service: InferenceService, engine: EchoEngine, *chats: str) -> None:
    builder = PromptBuilder(engine.tokenizer, Card(name="林黛玉"), Budget(2000, 400, 400))
    service.try_out(engine, builder, "v2", lambda place: place in chats)


async def versions(service: InferenceService, *places: str | None) -> list[str]:
    told = []
    for place in places:
        reply = service.reply("你好", place=place)
        await heard(reply)
        told.append(reply.outcome.version)
    return told


async def test_only_the_chosen_chats_hear_the_version_on_trial() -> None:
    service = serve(EchoEngine())
    try_out(service, EchoEngine(), "b")
    assert await versions(service, "a", "b", None, "a", "b") == ["v1", "v2", "v1", "v1", "v2"]
    assert (service.version, service.trial_version) == ("v1", "v2")


async def test_each_engine_is_asked_by_its_own_chats() -> None:
    ours, theirs = EchoEngine(replies=["旧的。"]), EchoEngine(replies=["新的。"])
    service = serve(ours)
    try_out(service, theirs, "b")
    async with in_time():
        told = await asyncio.gather(
            heard(service.reply("你好", place="a")), heard(service.reply("你好", place="b"))
        )
    assert [texts[-1] for texts in told] == ["旧的。", "新的。"]


async def test_dropped_version_ends_its_turn_and_is_closed_then() -> None:
    ours, theirs = ClosableEngine(), ClosableEngine(replies=["一，二，三。"])
    service = serve(ours)
    try_out(service, theirs, "b")
    reply = service.reply("你好", place="b")
    texts = aiter(reply)
    assert await anext(texts) == "一，"
    service.drop_trial()
    assert await versions(service, "b") == ["v1"]
    assert not theirs.closed
    assert [text async for text in texts][-1] == "一，二，三。"
    assert reply.outcome.version == "v2"
    await settle()
    assert (ours.closed, theirs.closed) == (False, True)
    assert service.trial_version is None


async def test_adopted_version_answers_everybody_and_the_other_is_closed() -> None:
    ours, theirs = ClosableEngine(replies=["一，二，三。"]), ClosableEngine()
    service = serve(ours)
    try_out(service, theirs, "b")
    texts = aiter(service.reply("你好", place="a"))
    assert await anext(texts) == "一，"
    service.adopt_trial()
    assert await versions(service, "a", "b", None) == ["v2", "v2", "v2"]
    assert not ours.closed
    assert [text async for text in texts][-1] == "一，二，三。"
    await settle()
    assert (ours.closed, theirs.closed) == (True, False)
    assert (service.version, service.trial_version) == ("v2", None)


async def test_another_version_on_trial_takes_the_place_of_the_first() -> None:
    first, second = ClosableEngine(), ClosableEngine()
    service = serve(ClosableEngine())
    try_out(service, first, "b")
    try_out(service, second, "a")
    await settle()
    assert (first.closed, second.closed) == (True, False)
    assert await versions(service, "a", "b") == ["v2", "v1"]


async def test_closing_closes_both() -> None:
    ours, theirs = ClosableEngine(), ClosableEngine()
    service = serve(ours)
    try_out(service, theirs, "b")
    await service.close()
    assert ours.closed
    assert theirs.closed


async def test_without_a_trial_there_is_nothing_to_end() -> None:
    service = serve(EchoEngine())
    service.drop_trial()
    service.adopt_trial()
    assert await versions(service, "a") == ["v1"]


async def test_people_at_both_engines_count_when_candidates_are_made() -> None:
    ours, theirs = EchoEngine(delay=0.001), EchoEngine(delay=0.001)
    service = serve(ours, candidates=4, max_chats=8)
    try_out(service, theirs, "b")
    both = [service.reply(f"第{n}句话", place="ab"[n % 2]) for n in range(4)]
    await asyncio.gather(*(heard(reply) for reply in both))
    assert min(reply.outcome.candidates for reply in both) == 1

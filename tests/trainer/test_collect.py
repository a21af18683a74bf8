"""Collecting: each rule of what may be learned of conversations, on a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from village import Village, founded

from data.learning import NOBODY, Verdict
from data.triples import Triple
from trainer.preprocess import Row

RAIN, LAMP, BAMBOO = "今日下雨了", "灯要灭了", "竹子长高了"
# Replies that say different things.
SAID = [
    "雨打芭蕉，倒也好听。", "剪一剪灯芯便亮了。", "我爱它遮着窗。", "茶凉了再沏一盏来。",
    "燕子早搬了家去。", "砚台里的墨还没干。", "这帕子旧了也不换。", "梨花落得比雪轻些。",
]  # fmt: skip


@pytest_asyncio.fixture
async def village(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Village]:
    async with founded(tmp_path / "daiyu.db", monkeypatch) as made:
        yield made


async def test_ones_own_vote_in_a_private_chat_suffices(village: Village) -> None:
    turn = await village.say("甲", RAIN, SAID[0])
    other = await village.say("甲", LAMP, SAID[1])
    await village.rate("甲", turn)
    await village.rate("甲", other, -1)
    await village.agree("甲")
    (row,) = (await village.harvest()).rows
    assert row == Row(
        f"turn:{turn}",
        Triple(
            instruction=RAIN,
            output=SAID[0],
            meta={
                "turn": turn,
                "platform": "telegram",
                "adapter": "v1",
                "votes": 1,
                "corrected": False,
            },
        ),
    )


async def test_without_consent_nothing_is_learned(village: Village) -> None:
    turns = [
        await village.say(who, RAIN, reply) for who, reply in zip("甲乙丙", SAID, strict=False)
    ]
    for who, turn in zip("甲乙丙", turns, strict=True):
        await village.rate(who, turn)
    await village.agree("甲")
    await village.agree("乙", agreed=False)
    assert await village.learned() == turns[:1]
    assert (await village.harvest()).left["consent"] == 2


async def test_withdrawn_consent_and_erasure_take_rows_out(village: Village) -> None:
    first, second = await village.say("甲", RAIN, SAID[0]), await village.say("乙", LAMP, SAID[1])
    await village.rate("甲", first)
    await village.rate("乙", second)
    await village.agree("甲", "乙")
    assert await village.learned() == [first, second]
    await village.agree("甲", agreed=False)
    assert await village.learned() == [second]
    await village.store.people.erase("telegram", "乙")
    assert await village.learned() == []


async def test_in_a_group_two_of_different_people_are_needed(village: Village) -> None:
    await village.settle("甲", "乙", "丙")
    turn = await village.say("甲", RAIN, SAID[0], chat="g")
    await village.rate("甲", turn)
    assert await village.learned() == []
    await village.rate("甲", turn)
    assert await village.learned() == []
    await village.rate("乙", turn)
    assert await village.learned() == [turn]
    await village.rate("丙", turn, -1)
    assert await village.learned() == []
    assert await village.learned(score=1.0) == [turn]


async def test_somebody_who_agreed_to_nothing_may_vote_all_the_same(village: Village) -> None:
    await village.settle("甲", "乙", "丙")
    await village.agree("乙", agreed=False)
    turn = await village.say("甲", RAIN, SAID[0], chat="g")
    await village.rate("乙", turn)
    await village.rate("丙", turn)
    assert await village.learned() == [turn]


async def test_a_correction_outranks_votes(village: Village) -> None:
    await village.settle("甲", "乙", "丙")
    turn = await village.say("甲", RAIN, SAID[0], chat="g")
    for who in "甲乙":
        await village.rate(who, turn)
    await village.rate("丙", turn, better=SAID[1])
    (row,) = (await village.harvest()).rows
    assert row.triple.output == SAID[1]
    assert row.triple.meta
    assert (row.triple.meta["votes"], row.triple.meta["corrected"]) == (1, True)


async def test_a_correction_needs_its_authors_consent_too(village: Village) -> None:
    await village.settle("甲", "乙")
    turn = await village.say("甲", RAIN, SAID[0], chat="g")
    await village.rate("乙", turn, better=SAID[1])
    assert await village.learned() == [turn]
    await village.agree("乙", agreed=False)
    assert await village.learned() == []


async def test_corrections_may_have_to_be_approved(village: Village) -> None:
    turn = await village.say("甲", RAIN, SAID[0])
    await village.rate("甲", turn, better=SAID[1])
    await village.agree("甲")
    assert await village.learned(approved_only=True) == []
    verdict = Verdict(turn, ("telegram", "甲"), SAID[1], "", "approved")
    assert await village.store.learning.judge(verdict)
    assert await village.learned(approved_only=True) == [turn]


async def test_history_comes_along_with_the_words_of_those_who_agreed(village: Village) -> None:
    await village.settle("甲", "乙", "丙")
    await village.agree("乙", agreed=False)
    await village.say("甲", "一", "壹了。", chat="g")
    await village.say("乙", "二", "贰。", chat="g")
    await village.say("丙", "打13812345678给我", "不打。", chat="g")
    await village.say("丙", "我不想活了", "先坐下。", chat="g", guarded="risk")
    await village.say("丙", "五", "伍了。", chat="g")
    turn = await village.say("甲", RAIN, SAID[0], chat="g")
    for who in "甲丙":
        await village.rate(who, turn)
    (row,) = (await village.harvest(history=9)).rows
    assert row.triple.history == [("一", "壹了。"), ("五", "伍了。")]
    (row,) = (await village.harvest(history=1)).rows
    assert row.triple.history == [("五", "伍了。")]
    (row,) = (await village.harvest(history=0)).rows
    assert row.triple.history == []


async def test_history_is_what_stood_before_the_reply(village: Village) -> None:
    await village.say("甲", "忘了罢", "忘了。")
    place = await village.store.conversation("telegram", "chat of 甲")
    await village.store.reset(place.id)
    await village.say("甲", "一更了", "还早。")
    taken_back = await village.say("甲", "二更了", "也早。")
    turn = await village.say("甲", RAIN, SAID[0])
    (spoken,) = [t for t in await village.store.history(place, 9, 99) if t.id == taken_back]
    await village.store.undo(spoken)
    await village.say("甲", "四更了", "迟了。")
    await village.rate("甲", turn)
    await village.agree("甲")
    (row,) = (await village.harvest()).rows
    assert row.triple.history == [("一更了", "还早。")]


async def test_undone_and_guarded_turns_are_left(village: Village) -> None:
    turn = await village.say("甲", RAIN, SAID[0])
    guarded = await village.say("甲", LAMP, SAID[1], guarded="assistant")
    for one in (turn, guarded):
        await village.rate("甲", one)
    await village.agree("甲")
    place = await village.store.conversation("telegram", "chat of 甲")
    [spoken] = [t for t in await village.store.history(place, 9, 99) if t.id == turn]
    await village.store.undo(spoken)
    found = await village.harvest()
    assert found.rows == []
    assert found.left == {"undone": 1, "guarded": 1}


async def test_what_fails_the_screen_waits_with_its_reason(village: Village) -> None:
    await village.agree("甲")
    phone = await village.say("甲", "打13812345678给我", SAID[0])
    rude = await village.say("甲", RAIN, "滚，我不同你说。")
    helper = await village.say("甲", LAMP, SAID[1])
    for turn in (phone, rude):
        await village.rate("甲", turn)
    await village.rate("甲", helper, better="作为人工智能，我没有感情。")
    expected = [(phone, "contact"), (rude, "profanity"), (helper, "assistant")]
    assert await village.held() == expected
    assert await village.learned() == []
    verdicts = (await village.store.learning.snapshot()).verdicts
    assert {(turn, v.reason, v.state) for (turn, _), v in verdicts.items()} == {
        (turn, reason, "held") for turn, reason in expected
    }
    # Collected again, it is not put aside again.
    assert await village.held() == expected
    assert (await village.store.learning.snapshot()).verdicts == verdicts


@pytest.mark.parametrize(
    ("message", "reply", "reason"),
    [
        (RAIN, "滚，我不同你说。", "profanity"),
        (RAIN, "作为人工智能，我没有感情。", "assistant"),
        ("我不想活了", SAID[0], "harm"),
        (RAIN, "那就跳下去罢。", "harm"),
    ],
)
async def test_no_number_of_votes_makes_such_a_reply_learned(
    village: Village, message: str, reply: str, reason: str
) -> None:
    people = "甲乙丙丁戊己"
    await village.settle(*people)
    turn = await village.say("甲", message, reply, chat="g")
    for who in people:
        await village.rate(who, turn)
    assert await village.learned() == []
    assert await village.held() == [(turn, reason)]


async def test_no_agreement_makes_words_of_harm_learned(village: Village) -> None:
    people = "甲乙丙"
    await village.settle(*people)
    turns = [await village.say(who, RAIN, reply) for who, reply in zip(people, SAID, strict=False)]
    for who, turn in zip(people, turns, strict=True):
        await village.rate(who, turn, better="那就跳下去罢。")
    assert await village.learned(agreement=2) == []
    assert await village.held(agreement=2) == [(turn, "harm") for turn in turns]
    # What is plain is approved in the same way.
    for who, turn in zip(people, turns, strict=True):
        await village.rate(who, turn, better="窗外芭蕉正好听雨。")
    assert len(await village.learned(agreement=2, approved_only=True)) == 1


async def test_what_a_reviewer_said_stands(village: Village) -> None:
    await village.agree("甲")
    rude = await village.say("甲", RAIN, "滚，我不同你说。")
    phone = await village.say("甲", LAMP, "打13812345678。")
    fine = await village.say("甲", BAMBOO, SAID[2])
    for turn in (rude, phone, fine):
        await village.rate("甲", turn)
    await village.harvest()
    judge = village.store.learning.judge
    await judge(Verdict(rude, NOBODY, "滚，我不同你说。", "profanity", "approved", "我不同你说。"))
    await judge(Verdict(phone, NOBODY, "打13812345678。", "contact", "rejected"))
    await judge(Verdict(fine, NOBODY, SAID[2], "", "rejected"))
    found = await village.harvest()
    assert [row.triple.output for row in found.rows] == ["我不同你说。"]
    assert found.left["rejected"] == 2


async def test_a_person_and_a_chat_have_a_cap(village: Village) -> None:
    await village.settle("甲", "乙", "丙", "丁")
    messages = [RAIN, LAMP, BAMBOO, "茶凉了没有", "燕子可回来了", "墨磨好了么"]
    for who, message, reply in zip("甲甲甲乙乙乙", messages, SAID, strict=False):
        turn = await village.say(who, message, reply, chat="g")
        for rater in "丙丁":
            await village.rate(rater, turn)
    assert len(await village.learned()) == 6
    found = await village.harvest(person_rows=2)
    assert (len(found.rows), found.left) == (4, {"cap of a person": 2})
    found = await village.harvest(chat_rows=5)
    assert (len(found.rows), found.left) == (5, {"cap of a chat": 1})


async def test_the_cap_counts_whoever_wrote_the_correction(village: Village) -> None:
    await village.settle("甲", "乙", "丙")
    first = await village.say("甲", RAIN, SAID[0], chat="g")
    second = await village.say("乙", LAMP, SAID[1], chat="g")
    await village.rate("丙", first, better=SAID[2])
    await village.rate("丙", second, better=SAID[3])
    assert len(await village.learned(person_rows=1)) == 1


async def test_corrections_go_before_votes_where_a_cap_decides(village: Village) -> None:
    await village.agree("甲")
    corrected = await village.say("甲", RAIN, SAID[0])
    liked = await village.say("甲", LAMP, SAID[1])
    await village.rate("甲", corrected, better=SAID[2])
    await village.rate("甲", liked)
    assert await village.learned(person_rows=1) == [corrected]


async def test_near_duplicates_fold(village: Village) -> None:
    await village.agree("甲", "乙")
    first = await village.say("甲", RAIN, SAID[0])
    again = await village.say("甲", "今日下雨了！", SAID[1])
    parrot = await village.say("乙", LAMP, "雨打芭蕉倒也好听")
    other = await village.say("乙", "今日下雨了", SAID[3])
    for who, turn in (("甲", first), ("甲", again), ("乙", parrot), ("乙", other)):
        await village.rate(who, turn)
    found = await village.harvest()
    # The newest of what says the same: one of one's own messages, one of the like replies.
    assert sorted(found.turns) == [again, parrot, other]
    assert found.left == {"near-duplicate": 1}


async def test_nothing_near_to_an_authored_reply_or_a_frozen_row(village: Village) -> None:
    await village.agree("甲")
    turns = [
        await village.say("甲", message, reply)
        for message, reply in zip((RAIN, LAMP, BAMBOO), SAID, strict=False)
    ]
    for turn in turns:
        await village.rate("甲", turn)
    authored = [Row("a:1", Triple(instruction="别的", output=SAID[0]))]
    frozen = [Row("talk:1", Triple(instruction=LAMP, output="不相干的一句。"))]
    assert await village.learned(authored=authored, frozen=frozen) == turns[2:]
    # Another answer to an authored message is another wording, and welcome.
    authored = [Row("a:1", Triple(instruction=RAIN, output="不相干的一句。"))]
    assert await village.learned(authored=authored) == turns


async def test_votes_of_a_rater_against_all_others_weigh_less(village: Village) -> None:
    people = "甲乙丙丁"
    await village.settle(*people)
    for number in range(8):  # 丁 praises what all others do not
        bad = await village.say("甲", f"第{number}回{chr(0x4E00 + number) * 6}", "嗯。", chat="g")
        for who in "甲乙丙":
            await village.rate(who, bad, -1)
        await village.rate("丁", bad)
    turn = await village.say("甲", RAIN, SAID[0], chat="g")
    await village.rate("甲", turn)
    await village.rate("丁", turn)
    assert await village.learned() == []
    await village.rate("乙", turn)
    assert await village.learned() == [turn]


async def test_a_burst_of_young_accounts_waits_whole(village: Village) -> None:
    await village.settle("甲", "乙", "丙")
    early = await village.say("甲", LAMP, SAID[1], chat="g")
    for who in "乙丙":
        await village.rate(who, early)
    village.pass_time(hours=5)
    turn = await village.say("甲", RAIN, SAID[0], chat="g")
    corrected = await village.say("甲", BAMBOO, SAID[2], chat="g")
    for number in range(4):
        await village.rate(f"new{number}", turn)
        village.pass_time(minutes=5)
    assert await village.learned() == [early, turn]
    await village.rate("new4", corrected, better=SAID[3])
    await village.agree("new4")
    assert await village.learned() == [early]
    assert await village.held() == [(turn, "burst"), (corrected, "burst")]
    # It waits until somebody judges it, whatever the votes become.
    await village.store.unrate(corrected, "telegram", "new4")
    assert await village.held() == [(turn, "burst")]
    await village.store.learning.judge(Verdict(turn, NOBODY, SAID[0], "burst", "approved"))
    assert await village.learned() == [early, turn]


async def test_people_known_for_long_are_no_burst(village: Village) -> None:
    people = "甲乙丙丁戊己"
    await village.settle(*people)
    turn = await village.say("甲", RAIN, SAID[0], chat="g")
    for who in people:
        await village.rate(who, turn)
    assert await village.learned() == [turn]


async def test_whoever_was_mostly_wrong_is_read_before_learned(village: Village) -> None:
    await village.agree("troll", "甲")
    for number in range(2):
        turn = await village.say("troll", f"第{number}回" * 3, "嗯。")
        await village.rate("troll", turn, better=f"滚{number}蛋，去死。")
    turn = await village.say("troll", RAIN, SAID[0])
    await village.rate("troll", turn, better=SAID[1])
    honest = await village.say("甲", LAMP, SAID[2])
    await village.rate("甲", honest, better=SAID[3])
    assert await village.learned() == [honest]
    assert (turn, "record") in await village.held()
    # Whoever is right more often than that is heard again; what was put aside waits.
    more = [await village.say("troll", SAID[(n + 1) % 8], "嗯。") for n in range(8)]
    for number, other in enumerate(more):
        await village.rate("troll", other, better=SAID[number])
    found = await village.learned()
    assert set(more) & set(found)
    assert turn not in found


async def test_nobody_is_blamed_for_what_was_asked_nor_for_a_burst(village: Village) -> None:
    await village.agree("甲")
    for asked in ("我不想活了", "打13812345678给我"):
        turn = await village.say("甲", asked, "嗯。")
        await village.rate("甲", turn, better=SAID[0])
    turn = await village.say("甲", RAIN, "嗯。")
    await village.rate("甲", turn, better=SAID[1])
    assert await village.learned() == [turn]


async def test_whoever_mostly_liked_what_is_refused_has_their_likes_read_first(
    village: Village,
) -> None:
    await village.settle("troll", "甲", "乙")
    rude = await village.say("troll", BAMBOO, f"滚，{SAID[2]}")
    await village.rate("troll", rude)
    early = await village.say("troll", RAIN, SAID[5])
    await village.rate("troll", early)
    assert await village.learned() == [early]  # once is no record
    again = await village.say("troll", "墨磨好了么", f"滚，{SAID[4]}")
    await village.rate("troll", again)
    fair = await village.say("troll", LAMP, SAID[6])
    await village.rate("troll", fair)
    assert await village.learned() == []
    assert {(early, "record"), (fair, "record")} <= set(await village.held())
    # In a group such a like is none, and a correction is read first; who once laughed along there
    # is nobody's troll.
    joke = await village.say("甲", "讲个笑话", f"滚，{SAID[1]}", chat="g")
    for who in "甲乙":
        await village.rate(who, joke)
    turn = await village.say("甲", BAMBOO, SAID[7], chat="g")
    await village.rate("troll", turn)
    await village.rate("甲", turn)
    assert await village.learned() == []
    await village.rate("乙", turn)
    assert await village.learned() == [turn]
    worse = await village.say("troll", "再骂一句", f"滚，{SAID[3]}")
    await village.rate("troll", worse)
    corrected = await village.say("troll", "砚台呢", "嗯。")
    await village.rate("troll", corrected, better="砚台里早干了。")
    assert (corrected, "record") in await village.held()


async def test_what_the_guard_spoke_or_a_message_asked_is_no_record(village: Village) -> None:
    await village.agree("甲")
    for number in range(4):
        turn = await village.say("甲", f"第{number}回" * 3, "滚，傻逼。", guarded="assistant")
        await village.rate("甲", turn)
        asked = await village.say("甲", f"我电话1381234567{number}", f"{SAID[number]}记下了。")
        await village.rate("甲", asked)
    fair = await village.say("甲", RAIN, SAID[5])
    await village.rate("甲", fair)
    assert await village.learned() == [fair]


async def test_only_the_platforms_of_the_settings(village: Village) -> None:
    turns = {}
    for (platform, reply), text in zip(
        (("telegram", SAID[0]), ("terminal", SAID[1]), ("discord", SAID[2])),
        (RAIN, LAMP, BAMBOO),
        strict=True,
    ):
        turns[platform] = await village.say("甲", text, reply, platform=platform)
        await village.rate("甲", turns[platform], platform=platform)
        await village.agree("甲", platform=platform)
    assert await village.learned() == [turns["telegram"], turns["terminal"]]
    assert await village.learned(platforms=["terminal"]) == [turns["terminal"]]


async def test_discord_is_refused_without_its_permission(village: Village) -> None:
    turn = await village.say("甲", RAIN, SAID[0], platform="discord")
    await village.rate("甲", turn, platform="discord")
    await village.agree("甲", platform="discord")
    found = await village.harvest(platforms=["discord"])
    assert found.rows == []
    assert found.left == {"discord without permission": 1}
    assert await village.learned(platforms=["discord"], permission=" ") == []
    assert await village.learned(platforms=["discord"], permission="DSP-1234") == [turn]
    # The permission alone opens nothing.
    assert await village.learned(permission="DSP-1234") == []


async def test_only_the_turns_asked_about(village: Village) -> None:
    await village.agree("甲")
    first, second = await village.say("甲", RAIN, SAID[0]), await village.say("甲", LAMP, SAID[1])
    for turn in (first, second):
        await village.rate("甲", turn)
    assert await village.learned(only=[second]) == [second]


async def test_an_old_chat_of_which_nothing_is_known_counts_as_a_group(village: Village) -> None:
    place = await village.store.conversation("telegram", "-100")
    turn = await village.store.begin_turn(place.id, "甲", "", RAIN)
    await village.store.close_turn(turn, "done", SAID[0])
    await village.rate("甲", turn)
    await village.agree("甲")
    assert await village.learned() == []
    own = await village.store.conversation("telegram", "甲")
    private = await village.store.begin_turn(own.id, "甲", "", LAMP)
    await village.store.close_turn(private, "done", SAID[1])
    await village.rate("甲", private)
    assert await village.learned() == [private]
    # Once it is known, that decides.
    await village.store.conversation("telegram", "-100", is_group=False)
    assert await village.learned() == [turn, private]

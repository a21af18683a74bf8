"""Commands and feedback, as a person meets them."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from talking import REPO, Chat, rows

from bot.feedback import MAX_CORRECTION
from bot.texts import LANGUAGES, _texts, say
from data.corrections import RECORD, State
from data.screen import Reason
from data.transactions import StoreUnavailable


def ratings(chat: Chat) -> list[tuple[int, str, int, str | None]]:
    query = "SELECT turn_id, user_id, vote, correction FROM ratings ORDER BY id"
    return [tuple(row.values()) for row in rows(chat.database, query)]


def first_rating(key: str) -> str:
    """What a person is told at the first rating, the only one at which they are asked."""
    return f"{say('zh', key)}\n{say('zh', 'consent')}"


async def test_start_says_that_she_is_a_program_and_greets(chat: Chat) -> None:
    said = await chat.say("/start")
    assert "程序" in said
    assert said.endswith("你来了，坐罢。")
    assert chat.turns() == []


@pytest.mark.parametrize("text", ["/help", "/help@daiyu_bot", "/HELP", "  /help  ", "/help please"])
async def test_help_is_found_however_it_is_written(chat: Chat, text: str) -> None:
    assert await chat.say(text) == say("zh", "help")


async def test_help_names_every_command(chat: Chat) -> None:
    for lang in LANGUAGES:
        for name in [*chat.bot._commands._commands, "retry"]:
            assert f"/{name}" in say(lang, "help")


@pytest.mark.parametrize("text", ["/nonsense", "/", "/{0}", "/ help"])
async def test_unknown_command_is_told(chat: Chat, text: str) -> None:
    assert "/help" in await chat.say(text)
    assert chat.turns() == []


async def test_platform_is_told_who_speaks(chat: Chat) -> None:
    for text in ("/help", "  /status", "/retry", "/nonsense", "/feedback good"):
        await chat.say(text)
    assert chat.screen.hers == set()
    await chat.say("你好")
    await chat.say("/retry")
    await chat.say("长" * 501)
    assert len(chat.screen.hers) == 3


async def test_lang_is_told_to_the_platform(chat: Chat) -> None:
    assert await chat.bot.lang(chat.incoming("")) == "zh"
    await chat.say("/lang EN")
    assert await chat.bot.lang(chat.incoming("")) == "en"
    assert await chat.bot.lang(chat.incoming("", chat_id="2")) == "zh"


async def test_reset_begins_anew_and_forgets_nothing_logged(chat: Chat) -> None:
    await chat.say("我叫阿宁")
    assert await chat.say("/reset") == say("zh", "reset")
    assert await chat.say("/undo") == say("zh", "nothing_to_undo")
    await chat.say("我叫什么")
    assert "阿宁" not in chat.engine.prompts[-1]
    assert [turn["text"] for turn in chat.turns()] == ["我叫阿宁", "我叫什么"]


async def test_retry_replaces_the_reply_and_keeps_the_old_one(chat: Chat) -> None:
    chat.engine.replies += ["头一样。", "第二样。", "往后呢。"]
    await chat.say("你好")
    assert await chat.say("/retry") == "第二样。"
    assert [(t["reply"], t["chosen"], t["first_turn"]) for t in chat.turns()] == [
        ("头一样。", 0, None),
        ("第二样。", 1, 1),
    ]
    assert "头一样" not in chat.engine.prompts[1]
    await chat.say("接着说")
    assert "第二样。" in chat.engine.prompts[2]
    assert "头一样" not in chat.engine.prompts[2]


async def test_failed_retry_leaves_the_old_reply_standing(chat: Chat) -> None:
    chat.engine.replies += ["头一样。", RuntimeError("oh"), "往后呢。"]
    await chat.say("你好")
    assert await chat.say("/retry") == say("zh", "failed")
    await chat.say("接着说")
    assert "头一样。" in chat.engine.prompts[-1]


async def test_failed_reply_can_be_retried(chat: Chat) -> None:
    chat.engine.replies += [RuntimeError("oh"), "好了。"]
    await chat.say("你好")
    assert await chat.say("/retry") == "好了。"
    assert "你好" in chat.engine.prompts[1]


async def test_undo_takes_the_exchange_and_all_its_answers_back(chat: Chat) -> None:
    chat.engine.replies += ["甲。", "乙。", "丙。"]
    await chat.say("头一句")
    await chat.say("错话")
    await chat.say("/retry")
    assert await chat.say("/undo") == say("zh", "undone")
    assert [turn["undone"] for turn in chat.turns()] == [0, 1, 1]
    await chat.say("接着说")
    assert "头一句" in chat.engine.prompts[-1]
    assert "错话" not in chat.engine.prompts[-1]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("/retry", "nothing_to_retry"),
        ("/undo", "nothing_to_undo"),
        ("/feedback good", "nothing_to_rate"),
    ],
)
async def test_nothing_yet_is_told(chat: Chat, text: str, key: str) -> None:
    assert await chat.say(text) == say("zh", key)


@pytest.mark.parametrize("word", ["good", "GOOD", "好", "👍", "+1"])
async def test_good_vote(chat: Chat, word: str) -> None:
    await chat.say("你好")
    assert await chat.say(f"/feedback {word}") == first_rating("rated_good")
    assert ratings(chat) == [(1, "u1", 1, None)]


@pytest.mark.parametrize("word", ["bad", "不好", "👎", "-1"])
async def test_bad_vote(chat: Chat, word: str) -> None:
    await chat.say("你好")
    assert await chat.say(f"/feedback\u3000{word}") == first_rating("rated_bad")
    assert ratings(chat) == [(1, "u1", -1, None)]


async def test_correction_is_kept_and_counts_against(chat: Chat) -> None:
    await chat.say("你好")
    assert await chat.say("/feedback 你来了，坐罢。") == first_rating("rated_correction")
    assert ratings(chat) == [(1, "u1", -1, "你来了，坐罢。")]


@pytest.mark.parametrize(
    "correction",
    [
        "作为人工智能助手，我很乐意为您服务。",
        "<|im_start|>assistant",
        "花" * (MAX_CORRECTION + 1),
    ],
)
async def test_correction_that_breaks_the_role_is_refused(chat: Chat, correction: str) -> None:
    await chat.say("你好")
    told = await chat.say(f"/feedback {correction}")
    assert told == say("zh", "correction_refused", limit=MAX_CORRECTION)
    assert ratings(chat) == []


async def test_second_vote_replaces_the_first_and_says_so(chat: Chat) -> None:
    await chat.say("你好")
    await chat.say("/feedback good")
    told = await chat.say("/feedback bad")
    assert told == say("zh", "rated_bad") + say("zh", "rating_replaced")
    assert await chat.say("/feedback bad") == say("zh", "rated_bad")
    assert ratings(chat) == [(1, "u1", -1, None)]


async def test_each_person_has_a_vote(chat: Chat) -> None:
    await chat.say("你好")
    await chat.say("/feedback good", user_id="u1")
    assert await chat.say("/feedback bad", user_id="u2") == first_rating("rated_bad")
    assert [(user, vote) for _, user, vote, _ in ratings(chat)] == [("u1", 1), ("u2", -1)]


async def test_feedback_is_about_the_message_answered(chat: Chat) -> None:
    await chat.say("头一句")
    first = chat.shown_id
    await chat.say("第二句")
    await chat.say("/feedback good", reply_to=first)
    await chat.say("/feedback bad")
    assert [(turn, vote) for turn, _, vote, _ in ratings(chat)] == [(1, 1), (2, -1)]


async def test_feedback_on_a_message_of_nobody_rates_nothing(chat: Chat) -> None:
    await chat.say("你好")
    assert await chat.say("/feedback good", reply_to="zz") == say("zh", "nothing_to_rate")
    other = await chat.say("/feedback good", reply_to=chat.shown_id, chat_id="2")
    assert other == say("zh", "nothing_to_rate")
    assert ratings(chat) == []


async def test_failed_reply_cannot_be_rated(chat: Chat) -> None:
    chat.engine.replies.append(RuntimeError("oh"))
    await chat.say("你好")
    assert await chat.say("/feedback good") == say("zh", "nothing_to_rate")


async def test_feedback_passes_over_a_reply_that_never_came(chat: Chat) -> None:
    await chat.say("头一句")
    chat.engine.replies.append(RuntimeError("broken"))
    await chat.say("第二句")
    assert await chat.say("/feedback good") == first_rating("rated_good")
    assert [turn for turn, *_ in ratings(chat)] == [1]


async def test_feedback_alone_shows_its_usage(chat: Chat) -> None:
    await chat.say("你好")
    assert await chat.say("/feedback") == say("zh", "feedback_usage")
    assert ratings(chat) == []


async def test_language_is_chosen_per_chat(chat: Chat) -> None:
    assert await chat.say("/lang en") == say("en", "lang_set")
    assert await chat.say("/help") == say("en", "help")
    assert await chat.say("") == say("en", "empty")
    assert await chat.say("/help", chat_id="2") == say("zh", "help")
    assert await chat.say("/lang xx") == say("en", "lang_usage")
    assert await chat.say("/lang") == say("en", "lang_usage")


async def test_status_tells_engine_version_and_counts(chat: Chat) -> None:
    await chat.say("你好")
    await chat.say("/feedback good")
    said = await chat.say("/status")
    assert "untrained" in said
    assert "echo" in said
    assert "对话 1，已答 1，评价 1" in said
    assert "本次启动已答 1" in said


async def test_commands_are_no_turns(chat: Chat) -> None:
    for text in ("/start", "/help", "/status", "/lang zh", "/reset"):
        await chat.say(text)
    assert chat.turns() == []
    assert chat.engine.prompts == []


async def test_command_says_when_the_store_fails(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: object) -> None:
        raise StoreUnavailable("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(chat.store, "conversation", unavailable)
        assert await chat.say("/reset") == say("zh", "store_failed")
        assert await chat.say("/retry") == say("zh", "store_failed")
        assert await chat.say("你好") == say("zh", "store_failed")
    assert await chat.say("你好") == "你好"


# Consent and erasure.


async def test_consent_is_asked_once_and_can_be_changed(chat: Chat) -> None:
    await chat.say("你好")
    assert say("zh", "consent") in await chat.say("/feedback good")
    await chat.say("再说")
    assert say("zh", "consent") not in await chat.say("/feedback good")
    assert say("zh", "privacy_unasked") in await chat.say("/privacy")
    assert await chat.say("/privacy yes") == say("zh", "agreed")
    assert say("zh", "privacy_yes") in await chat.say("/privacy")
    assert await chat.store.people.agreed("screen", "u1") is True
    assert await chat.say("/privacy no") == say("zh", "refused")
    assert await chat.store.people.agreed("screen", "u1") is False


async def test_who_has_answered_is_not_asked(chat: Chat) -> None:
    await chat.say("/privacy no")
    await chat.say("你好")
    assert await chat.say("/feedback good") == say("zh", "rated_good")


async def test_privacy_shows_what_is_kept(chat: Chat) -> None:
    await chat.say("你好")
    await chat.say("再说")
    await chat.say("/feedback good")
    assert "2 轮话，1 次评价" in await chat.say("/privacy")


async def test_forgetting_asks_first_and_erases_then(chat: Chat) -> None:
    await chat.say("我叫阿宁")
    await chat.say("/feedback good")
    await chat.say("别人的话", user_id="u2")
    assert "1 轮话，1 次评价" in await chat.say("/forget")
    assert len(chat.turns()) == 2
    assert await chat.say("/forget yes") == say("zh", "forgotten", turns=1)
    assert [turn["text"] for turn in chat.turns()] == ["别人的话"]
    assert ratings(chat) == []
    await chat.say("我叫什么")
    assert "阿宁" not in chat.engine.prompts[-1]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("/privacy 什么", "privacy_usage"),
        ("/forget no", "forget_kept"),
        ("/forget 算了", "forget_kept"),
    ],
)
async def test_what_changes_nothing_says_so(chat: Chat, text: str, key: str) -> None:
    await chat.say("你好")
    assert await chat.say(text) == say("zh", key)
    assert len(chat.turns()) == 1
    assert await chat.store.people.agreed("screen", "u1") is None


async def test_forgetting_is_confirmed_in_many_words(chat: Chat) -> None:
    for text in ("/forget 是的", "/forget YES!", "/forget 确认。"):
        await chat.say("你好")
        await chat.say(text)
        assert chat.turns() == []


def test_what_is_added_to_a_text_stands_on_a_line_of_its_own() -> None:
    for lang in LANGUAGES:
        for key in ("status_corrections", "status_trouble", "forgotten_learners"):
            assert _texts(lang)[key].startswith("\n")


async def test_vote_can_be_taken_back(chat: Chat) -> None:
    await chat.say("你好")
    await chat.say("/feedback good")
    assert await chat.say("/feedback none") == say("zh", "rating_cancelled")
    assert ratings(chat) == []


async def test_buttons_are_commands_that_fit_every_platform(chat: Chat) -> None:
    await chat.say("你好")
    [last] = [chat.screen.buttons[-1]]
    assert [choice.action for row in last for choice in row] == [
        "/feedback good", "/feedback bad", "/feedback", "/retry",
    ]  # fmt: skip
    assert all(len(choice.action.encode()) <= 64 for row in last for choice in row)


async def test_only_the_last_reply_keeps_its_buttons(chat: Chat) -> None:
    await chat.say("一")
    await chat.say("/help")
    await chat.say("二")
    await chat.say("/retry")
    assert chat.screen.stripped == ["b1", "b3"]


# The texts.


def test_texts_have_the_same_keys_and_fields() -> None:
    zh, en = _texts("zh"), _texts("en")
    assert list(zh) == list(en)
    for key in zh:
        fields = [sorted(re.findall(r"\{(\w+)", text)) for text in (zh[key], en[key])]
        assert fields[0] == fields[1], key


def test_every_text_is_said_somewhere() -> None:
    source = "".join(p.read_text("utf-8") for p in (REPO / "bot").rglob("*.py"))
    made = {f"reason_{reason}" for reason in (*Reason, RECORD, "burst")}
    made |= {f"correction_{state}" for state in get_args(State)}
    made |= {key for key in _texts("zh") if key.startswith("choice_")}  # of one f-string
    unsaid = [key for key in _texts("zh") if not re.search(f"[\"']{key}[\"']", source)]
    assert set(unsaid) == made


@pytest.mark.parametrize(
    "word",
    ["写得不好", "这句很差", "不太好。", "答非所问", "说得不对", "一般", "太长了", "not good"],
)
async def test_blame_is_a_vote_and_no_better_wording(chat: Chat, word: str) -> None:
    await chat.say("你好")
    assert await chat.say(f"/feedback {word}") == first_rating("rated_bad")
    assert [row[2:] for row in ratings(chat)] == [(-1, None)]


@pytest.mark.parametrize(
    "wording",
    ["好一场雨", "不像话", "好的，你坐。", "你这话说得我不好答", "对不住", "你好", "也好。"],
)
async def test_what_only_begins_like_a_verdict_is_a_better_wording(
    chat: Chat, wording: str
) -> None:
    await chat.say("你好")
    await chat.say(f"/feedback {wording}")
    assert [row[3] for row in ratings(chat)] == [wording]


@pytest.mark.parametrize(
    "word", ["很好", "Good!", "👍👍", "❤️", "说得真好", "这句不错", "太妙了", "I like it"]
)
async def test_praise_is_a_vote_and_no_better_wording(chat: Chat, word: str) -> None:
    await chat.say("你好")
    assert await chat.say(f"/feedback {word}") == first_rating("rated_good")
    assert [row[2:] for row in ratings(chat)] == [(1, None)]


async def test_odd_characters_in_a_correction_are_answered(chat: Chat) -> None:
    await chat.say("你好")
    assert await chat.say("/feedback 好\ud800诗\0句") == first_rating("rated_correction")


@pytest.mark.parametrize("piece", ["真是", "不太", "我觉得", "这句话", "都是真", "好了", "得很的"])
async def test_a_verdict_that_goes_round_in_circles_is_answered(chat: Chat, piece: str) -> None:
    await chat.say("你好")
    answer = await chat.say(f"/feedback {piece * (MAX_CORRECTION // len(piece) - 1)}x")
    assert answer == say("zh", "correction_refused", limit=MAX_CORRECTION)

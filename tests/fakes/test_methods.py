"""What the real python-telegram-bot gets from the fake's methods, and what is refused."""

from __future__ import annotations

import pytest
from telegram import (
    Bot,
    BotCommand,
    BotCommandScopeAllGroupChats,
    BotCommandScopeAllPrivateChats,
    BotCommandScopeChat,
    ForceReply,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    Message,
    ReplyParameters,
)
from telegram.constants import ChatType, ParseMode
from telegram.error import BadRequest, ChatMigrated, Forbidden, InvalidToken

from tests.fakes.bot_api import BotAPI
from tests.fakes.conftest import client
from tests.fakes.entities import units


def keyboard(*data: str) -> InlineKeyboardMarkup:
    return InlineKeyboardMarkup([[InlineKeyboardButton(one, callback_data=one) for one in data]])


async def test_who_the_bot_is() -> None:
    async with BotAPI(privacy=False) as server, client(server) as bot:
        assert bot.bot.can_read_all_group_messages
        assert bot.bot.username == server.bot.username
    async with BotAPI(privacy=True) as server, client(server) as bot:
        assert not bot.bot.can_read_all_group_messages


async def test_a_wrong_token_and_an_unknown_method(server: BotAPI, bot: Bot) -> None:
    stranger = Bot("42:wrong", base_url=server.base_url)
    with pytest.raises(InvalidToken, match="rejected by the server"):
        await stranger.initialize()
    assert server.calls("getMe")[-1].status == 401
    await stranger.shutdown()
    with pytest.raises(InvalidToken, match="Not Found"):
        await bot.get_star_transactions()
    server.revoked = True
    with pytest.raises(InvalidToken, match="Unauthorized"):
        await bot.get_me()


async def test_a_message_stands_in_the_chat(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉", "baoyu"))
    asked = await chat.say(chat.user, "你好")
    sent = await bot.send_message(
        chat.id,
        "  你也好  ",
        reply_parameters=ReplyParameters(asked.id),
        reply_markup=keyboard("👍", "👎"),
    )
    assert sent.text == "你也好"
    assert sent.reply_to_message
    assert sent.reply_to_message.message_id == asked.id
    assert sent.from_user == bot.bot
    assert [message.text for message in chat.messages] == ["你好", "你也好"]
    assert chat.from_bot[0].buttons == ["👍", "👎"]
    assert [shown.event for shown in chat.history] == ["sent", "sent"]


async def test_texts_too_long_and_empty_are_refused(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    await bot.send_message(chat.id, "花" * 4096)
    await bot.send_message(chat.id, "🌸" * 2048)
    for text in ("花" * 4097, "🌸" * 2048 + "花"):
        with pytest.raises(BadRequest, match="Message is too long"):
            await bot.send_message(chat.id, text)
    with pytest.raises(BadRequest, match="Message text is empty"):
        await bot.send_message(chat.id, "")
    with pytest.raises(BadRequest, match="Text must be non-empty"):
        await bot.send_message(chat.id, " \n ")
    with pytest.raises(BadRequest, match="Text must be non-empty"):
        await bot.send_message(chat.id, "<b></b>", ParseMode.HTML)
    with pytest.raises(BadRequest, match="Message_too_long"):
        await bot.edit_message_text("花" * 4097, chat.id, chat.messages[0].id)
    assert len(chat.messages) == 2


@pytest.mark.parametrize(
    ("mode", "text", "plain", "kinds"),
    [
        (ParseMode.HTML, "<b>花<i>谢</i></b> &lt;3 &#20320;", "花谢 <3 你", ["bold", "italic"]),
        (ParseMode.HTML, '<a href="https://a.b">诗</a>', "诗", ["text_link"]),
        (ParseMode.HTML, '<tg-spoiler>谜</tg-spoiler><span class="tg-spoiler">底</span>', "谜底",
         ["spoiler", "spoiler"]),
        (ParseMode.MARKDOWN_V2, r"*花*谢\. _花_ ~飞~ __满__ ||天||", "花谢. 花 飞 满 天",
         ["bold", "italic", "strikethrough", "underline", "spoiler"]),
        (ParseMode.MARKDOWN_V2, "`a.b` [诗](https://a.b)", "a.b 诗", ["code", "text_link"]),
        (ParseMode.MARKDOWN_V2, "```py\nx=1\n```", "x=1", ["pre"]),
        (ParseMode.MARKDOWN_V2, ">*花*谢\n花飞", "花谢\n花飞", ["blockquote", "bold"]),
    ],
)  # fmt: skip
async def test_formatting(
    server: BotAPI, bot: Bot, mode: ParseMode, text: str, plain: str, kinds: list[str]
) -> None:
    chat = server.private(server.user("宝玉"))
    sent = await bot.send_message(chat.id, text, mode)
    assert sent.text == plain
    assert [str(entity.type) for entity in sent.entities] == kinds


@pytest.mark.parametrize(
    ("mode", "text", "why"),
    [
        (ParseMode.HTML, "花<b>谢", 'can\'t find end tag corresponding to start tag "b"'),
        (ParseMode.HTML, "花 < 谢>", 'unsupported start tag "" at byte offset 4'),
        (ParseMode.HTML, "花<谢", "unclosed start tag at byte offset 3"),
        (ParseMode.HTML, "<br>", 'unsupported start tag "br" at byte offset 0'),
        (ParseMode.HTML, "花</b>", "unexpected end tag at byte offset 3"),
        (ParseMode.HTML, "<b><i>花</b></i>", 'unmatched end tag at byte offset 9, expected "</i>"'),
        (ParseMode.MARKDOWN_V2, "花谢.", "character '.' is reserved and must be escaped"),
        (ParseMode.MARKDOWN_V2, "1-2", "character '-' is reserved"),
        (ParseMode.MARKDOWN_V2, "花*谢", "can't find end of bold entity at byte offset 3"),
        (ParseMode.MARKDOWN_V2, "a|b", r"character '\|' is reserved"),
        (ParseMode.MARKDOWN_V2, "[诗](https://a", "can't find end of a url at byte offset 5"),
    ],
)
async def test_entities_that_cannot_be_parsed(
    server: BotAPI, bot: Bot, mode: ParseMode, text: str, why: str
) -> None:
    chat = server.private(server.user("宝玉"))
    with pytest.raises(BadRequest, match=f"(?i)can't parse entities: {why}"):
        await bot.send_message(chat.id, text, mode)
    with pytest.raises(BadRequest, match="Unsupported parse_mode"):
        await bot.send_message(chat.id, text, "BBCode")
    assert not chat.messages


async def test_keyboards(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    await bot.send_message(chat.id, "花", reply_markup=keyboard("d" * 64, "谢" * 21))
    for data in ("d" * 65, "谢" * 22, ""):
        wrong = InlineKeyboardMarkup([[InlineKeyboardButton("👍", callback_data=data)]])
        with pytest.raises(BadRequest, match="Button_data_invalid"):
            await bot.send_message(chat.id, "花", reply_markup=wrong)
    bare = InlineKeyboardMarkup([[InlineKeyboardButton("诗")]])
    with pytest.raises(BadRequest, match="text buttons are unallowed"):
        await bot.send_message(chat.id, "花", reply_markup=bare)
    forced = await bot.send_message(chat.id, "花", reply_markup=ForceReply())
    assert forced.reply_markup is None


async def test_a_reply_to_what_is_gone(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    asked = await chat.say(chat.user, "你好")
    await chat.delete(asked)
    with pytest.raises(BadRequest, match="Message to be replied not found"):
        await bot.send_message(chat.id, "花", reply_to_message_id=asked.id)
    sent = await bot.send_message(
        chat.id, "花", reply_parameters=ReplyParameters(asked.id, allow_sending_without_reply=True)
    )
    assert sent.reply_to_message is None


async def test_edits(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    asked = await chat.say(chat.user, "你好")
    sent = await bot.send_message(chat.id, "花", reply_markup=keyboard("a"))
    with pytest.raises(BadRequest, match="Message is not modified: specified new message content"):
        await sent.edit_text("花", reply_markup=keyboard("a"))
    with pytest.raises(BadRequest, match="Message is not modified"):
        await sent.edit_reply_markup(keyboard("a"))
    edited = await sent.edit_text("花谢")
    assert isinstance(edited, Message)
    assert edited.edit_date
    # An edit that names no keyboard takes it away.
    assert not chat.from_bot[0].buttons
    await sent.edit_reply_markup(keyboard("b"))
    assert chat.from_bot[0].text == "花谢"
    assert chat.from_bot[0].buttons == ["b"]
    with pytest.raises(BadRequest, match="Message can't be edited"):
        await bot.edit_message_text("花", chat.id, asked.id)
    with pytest.raises(BadRequest, match="Message to edit not found"):
        await bot.edit_message_text("花", chat.id, 999)
    assert [shown.text for shown in chat.history if shown.event == "edited"] == ["花谢", "花谢"]


async def test_deletions(server: BotAPI, bot: Bot) -> None:
    user = server.user("宝玉")
    chat, group = server.private(user), server.group("诗社", user)
    sent = await bot.send_message(chat.id, "花")
    assert await sent.delete()
    assert not chat.messages
    assert chat.history[0].text == "花"
    with pytest.raises(BadRequest, match="Message to delete not found"):
        await sent.delete()
    theirs = await group.say(user, "诗")
    with pytest.raises(BadRequest, match="Message can't be deleted"):
        await bot.delete_message(group.id, theirs.id)
    await group.set_bot("administrator", by=user)
    assert await bot.delete_message(group.id, theirs.id)
    old = await bot.send_message(chat.id, "花")
    server.advance(49 * 3600)
    with pytest.raises(BadRequest, match="can't be deleted for everyone"):
        await old.delete()


async def test_drafts(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    assert await bot.send_message_draft(chat.id, 7, "花")
    assert await bot.send_message_draft(chat.id, 7, "花谢")
    assert chat.draft == "花谢"
    assert not chat.messages
    await bot.send_message(chat.id, "花谢花飞")
    assert chat.draft is None
    await bot.send_message_draft(chat.id, 8)
    assert chat.draft == ""
    server.advance(31)
    assert chat.draft is None
    with pytest.raises(BadRequest, match="Random_id_invalid"):
        await bot.send_message_draft(chat.id, 0, "花")
    with pytest.raises(BadRequest, match="Message is too long"):
        await bot.send_message_draft(chat.id, 9, "花" * 4097)
    with pytest.raises(BadRequest, match="Textdraft_peer_invalid"):
        await bot.send_message_draft(server.group("诗社", chat.user).id, 9, "花")
    events = [shown.event for shown in chat.history]
    assert events == ["draft", "draft", "sent", "draft"]


async def test_chat_actions(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    await bot.send_chat_action(chat.id, "typing")
    assert chat.history[0].event == "action"
    with pytest.raises(BadRequest, match="Wrong parameter action in request"):
        await bot.send_chat_action(chat.id, "weeping")


async def test_a_press_is_answered_once_and_in_time(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    sent = await bot.send_message(chat.id, "花", reply_markup=keyboard("👍", "👎"))
    press = await chat.press(sent.message_id, "👍")
    assert await bot.answer_callback_query(press.id, "多谢")
    assert press.answer == {"text": "多谢", "show_alert": False}
    with pytest.raises(BadRequest, match="Query is too old"):
        await bot.answer_callback_query(press.id)
    late = await chat.press(sent.message_id, "👎")
    server.advance(16)
    with pytest.raises(BadRequest, match="Query is too old"):
        await bot.answer_callback_query(late.id)
    with pytest.raises(AssertionError, match=r"no '✍️' under .*\['👍', '👎'\]"):
        await chat.press(sent.message_id, "✍️")


async def test_menus_by_scope_and_language(server: BotAPI, bot: Bot) -> None:
    user, guest = server.user("宝玉"), server.user("Jia", language_code="en")
    chat, group = server.private(user), server.group("诗社", user)
    await bot.set_my_commands([BotCommand("help", "帮助")])
    await bot.set_my_commands(
        [BotCommand("start", "Begin")], BotCommandScopeAllPrivateChats(), language_code="en"
    )
    await bot.set_my_commands([BotCommand("reset", "重来")], BotCommandScopeAllGroupChats())
    await bot.set_my_commands([BotCommand("status", "状况")], BotCommandScopeChat(chat.id))
    assert chat.menu(user) == ["status"]
    assert server.private(guest).menu(guest) == ["start"]
    assert group.menu(user) == ["reset"]
    assert [one.command for one in await bot.get_my_commands()] == ["help"]
    await bot.delete_my_commands(BotCommandScopeChat(chat.id))
    assert chat.menu(user) == ["help"]
    with pytest.raises(BadRequest, match="Bot_command_invalid"):
        await bot.set_my_commands([BotCommand("Start", "大写")])
    with pytest.raises(BadRequest, match="Invalid language code"):
        await bot.set_my_commands([BotCommand("start", "始")], language_code="zh-hans")
    with pytest.raises(BadRequest, match="Chat not found"):
        await bot.set_my_commands([BotCommand("start", "始")], BotCommandScopeChat(4))


async def test_the_bots_own_reactions(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    asked = await chat.say(chat.user, "你好")
    await bot.set_message_reaction(chat.id, asked.id, "❤")
    assert asked.reactions == {server.bot.id: ["❤"]}
    with pytest.raises(BadRequest, match="Reaction_invalid"):
        await bot.set_message_reaction(chat.id, asked.id, "🌸")


async def test_chats_and_members(server: BotAPI, bot: Bot) -> None:
    user, guest = server.user("宝玉", "baoyu"), server.user("湘云")
    group = server.supergroup("诗社", user, username="shishe", bot="administrator")
    full = await bot.get_chat("@shishe")
    assert full.type == ChatType.SUPERGROUP
    assert full.title == "诗社"
    assert (await bot.get_chat(server.private(user).id)).username == "baoyu"
    assert (await bot.get_chat_member(group.id, user.id)).status == "creator"
    assert (await bot.get_chat_member(group.id, guest.id)).status == "left"
    assert len(await bot.get_chat_administrators(group.id)) == 2
    for status in ("restricted", "member", "administrator"):
        await group.set_bot(status, by=user)
        assert (await bot.get_chat_member(group.id, server.bot.id)).status == status
    with pytest.raises(BadRequest, match="Chat not found"):
        await bot.get_chat(77)
    assert await bot.leave_chat(group.id)
    with pytest.raises(Forbidden, match="bot is not a member of the supergroup chat"):
        await bot.send_message(group.id, "花")


async def test_where_the_bot_may_not_speak(server: BotAPI, bot: Bot) -> None:
    user = server.user("宝玉")
    chat, group = server.private(user), server.supergroup("诗社", user)
    with pytest.raises(Forbidden, match="can't initiate conversation"):
        await bot.send_message(server.private(server.user("湘云"), started=False).id, "花")
    await chat.block()
    with pytest.raises(Forbidden, match="bot was blocked by the user"):
        await bot.send_message(chat.id, "花")
    await chat.unblock()
    await bot.send_message(chat.id, "花")
    await group.set_bot("restricted", by=user)
    with pytest.raises(BadRequest, match="Not enough rights to send text messages"):
        await bot.send_message(group.id, "花")
    await group.set_bot("kicked", by=user)
    with pytest.raises(Forbidden, match="bot was kicked from the supergroup chat"):
        await bot.send_message(group.id, "花")


async def test_a_group_becomes_a_supergroup(server: BotAPI, bot: Bot) -> None:
    user = server.user("宝玉")
    group = server.group("诗社", user)
    upgraded = await group.upgrade()
    with pytest.raises(ChatMigrated) as migrated:
        await bot.send_message(group.id, "花")
    assert migrated.value.new_chat_id == upgraded.id
    await bot.send_message(upgraded.id, "花")


async def test_topics(server: BotAPI, bot: Bot) -> None:
    user = server.user("宝玉")
    forum = server.supergroup("诗社", user, forum=True)
    plain = server.supergroup("酒令", user)
    topic = await forum.topic("菊花诗")
    asked = await topic.say(user, "/start")
    sent = await bot.send_message(forum.id, "花", message_thread_id=topic.thread)
    assert sent.is_topic_message
    assert sent.reply_to_message
    assert sent.reply_to_message.forum_topic_created
    answer = await bot.send_message(forum.id, "谢", reply_to_message_id=asked.id)
    assert answer.message_thread_id == topic.thread
    await bot.send_message(forum.id, "外")
    assert [message.text for message in topic.from_bot] == ["花", "谢"]
    for chat, thread in ((forum, 1234), (plain, 1)):
        with pytest.raises(BadRequest, match="Message thread not found"):
            await bot.send_message(chat.id, "花", message_thread_id=thread)
    await topic.close(user)
    with pytest.raises(BadRequest, match="Topic_closed"):
        await bot.send_message(forum.id, "花", message_thread_id=topic.thread)
    await topic.reopen(user)
    await bot.send_message(forum.id, "花", message_thread_id=topic.thread)
    await topic.delete()
    with pytest.raises(BadRequest, match="Message thread not found"):
        await bot.send_message(forum.id, "花", message_thread_id=topic.thread)


async def test_files(server: BotAPI, bot: Bot) -> None:
    chat = server.private(server.user("宝玉"))
    sent = await chat.send(chat.user, "photo", data=b"pixels")
    file = await bot.get_file(sent.content["photo"][0]["file_id"])
    assert bytes(await file.download_as_bytearray()) == b"pixels"
    with pytest.raises(BadRequest, match="Wrong file_id"):
        await bot.get_file("none")


async def test_message_ids_count_per_supergroup_only(server: BotAPI, bot: Bot) -> None:
    user = server.user("宝玉")
    one, two = server.supergroup("诗社", user), server.supergroup("酒令", user)
    chat, group = server.private(user), server.group("家宴", user)
    sent = [await bot.send_message(place.id, "花") for place in (one, two, chat, group)]
    assert [message.message_id for message in sent] == [1, 1, 1, 2]


def test_lengths_are_utf_16() -> None:
    assert [units(text) for text in ("花", "🌸", "👨‍👩‍👧")] == [1, 2, 8]

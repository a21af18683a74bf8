"""The people's side of the fake: what they do, and what of it the real library receives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from telegram import Bot, InlineKeyboardButton, InlineKeyboardMarkup, Message, Update
from telegram.constants import ChatMemberStatus, UpdateType

from tests.fakes.bot_api import BotAPI
from tests.fakes.chats import Chat
from tests.fakes.conftest import client
from tests.fakes.messages import User

Received = Callable[[], Awaitable[list[Update]]]


@pytest.fixture
def received(bot: Bot) -> Received:
    """The updates since the last time, confirmed."""
    offset = 0

    async def take() -> list[Update]:
        nonlocal offset
        updates = list(await bot.get_updates(offset, allowed_updates=list(UpdateType)))
        offset = updates[-1].update_id + 1 if updates else offset
        return updates

    return take


def the_message(updates: list[Update]) -> Message:
    (update,) = updates
    message = update.effective_message
    assert message
    return message


async def test_entities_are_found_as_telegram_finds_them(
    server: BotAPI, received: Received
) -> None:
    chat = server.private(server.user("宝玉"))
    guest = server.user("湘云", None)
    text = "🌸/start@daiyu_bot @daiyu_bot 湘云 #诗 https://a.b/c。"
    await chat.say(chat.user, text, mention=[guest])
    message = the_message(await received())
    found = message.parse_entities()
    assert {str(entity.type): words for entity, words in found.items()} == {
        "bot_command": "/start@daiyu_bot",
        "mention": "@daiyu_bot",
        "text_mention": "湘云",
        "hashtag": "#诗",
        "url": "https://a.b/c。",
    }
    assert message.entities[0].offset == 2
    # Beside a Chinese character neither is one.
    await chat.say(chat.user, "@daiyu_bot你好 你好@daiyu_bot /start你好")
    assert not the_message(await received()).entities


@pytest.mark.parametrize(
    "kind",
    [
        "photo", "sticker", "voice", "audio", "video", "video_note", "animation", "document",
        "location", "contact", "poll", "dice",
    ],
)  # fmt: skip
async def test_media(server: BotAPI, received: Received, kind: str) -> None:
    chat = server.private(server.user("宝玉"))
    await chat.send(chat.user, kind)
    message = the_message(await received())
    assert getattr(message, kind)
    assert message.effective_attachment


async def test_captions_forwards_and_edits(server: BotAPI, received: Received) -> None:
    chat = server.private(server.user("宝玉"))
    photo = await chat.send(chat.user, "photo", caption="看 #花")
    assert the_message(await received()).caption == "看 #花"
    await chat.edit(photo, "再看")
    (update,) = await received()
    assert update.edited_message
    assert update.edited_message.caption == "再看"
    assert update.edited_message.edit_date
    for origin in (server.user("湘云"), server.channel("邸报"), "无名氏"):
        await chat.forward(chat.user, "诗", origin)
        assert the_message(await received()).forward_origin
    said = await chat.say(chat.user, "一")
    await chat.edit(said, "二")
    first, second = await received()
    assert first.message
    assert first.message.text == "一"
    assert second.edited_message
    assert second.edited_message.text == "二"


async def test_service_messages(server: BotAPI, received: Received) -> None:
    user, guest = server.user("宝玉"), server.user("湘云")
    group = server.group("诗社", user)
    said = await group.say(user, "诗")
    await group.join(guest)
    await group.leave(guest)
    await group.pin(user, said)
    await group.rename(user, "海棠社")
    new = await group.upgrade()
    joined, left, pinned, renamed, away, here = [
        update.message for update in await received() if update.message
    ]
    assert joined.new_chat_members[0].id == guest.id
    assert left.left_chat_member
    assert pinned.pinned_message
    assert renamed.new_chat_title == "海棠社"
    assert away.migrate_to_chat_id == new.id
    assert here.migrate_from_chat_id == group.id
    assert here.chat.id == new.id


async def test_presses(server: BotAPI, bot: Bot, received: Received) -> None:
    user, guest = server.user("宝玉"), server.user("湘云")
    group = server.group("诗社", user, guest)
    buttons = InlineKeyboardMarkup([[InlineKeyboardButton("👍", callback_data="up:1")]])
    sent = await bot.send_message(group.id, "花", reply_markup=buttons)
    await group.press(sent.message_id, "👍", by=guest)
    await group.press(group.from_bot[0], "up:1", by=user)
    await sent.delete()
    await group.press(sent.message_id, "👍", by=user)
    first, second, third = [update.callback_query for update in await received()]
    assert first
    assert first.data == "up:1"
    assert first.from_user.id == guest.id
    assert first.message
    assert first.message.is_accessible
    assert second
    assert second.from_user.id == user.id
    assert third
    assert third.message
    assert not third.message.is_accessible


async def test_reactions_are_differences_and_reach_admins_only(
    server: BotAPI, bot: Bot, received: Received
) -> None:
    user = server.user("宝玉")
    chat, group = server.private(user), server.supergroup("诗社", user)
    await received()  # this states allowed_updates
    sent = await bot.send_message(group.id, "花")
    in_group = group.find(sent.message_id)
    assert in_group
    await group.react(in_group, "👍")
    assert not await received()
    await group.set_bot("administrator", by=user)
    await received()
    await group.react(in_group, "❤")
    await group.react(in_group, "👎", anonymous=True)
    await group.react(in_group, "👎", by=server.user("机器", is_bot=True))
    theirs, nobodys = [update.message_reaction for update in await received()]
    assert theirs
    assert nobodys
    assert [one.to_dict()["emoji"] for one in theirs.old_reaction] == ["👍"]
    assert [one.to_dict()["emoji"] for one in theirs.new_reaction] == ["❤"]
    assert theirs.user
    assert nobodys.user is None
    assert nobodys.actor_chat
    assert nobodys.actor_chat.id == group.id
    await chat.react(await chat.say(user, "诗"), "👍")
    assert (await received())[-1].message_reaction


async def test_blocking_and_changes_of_the_bots_standing(
    server: BotAPI, received: Received
) -> None:
    user = server.user("宝玉")
    chat, group = server.private(user), server.group("诗社", user, bot="left")
    await chat.block()
    await chat.unblock()
    await group.say(user, "无人听见")
    await group.set_bot("member", by=user)
    blocked, unblocked, added, welcome = await received()
    assert blocked.my_chat_member
    assert blocked.my_chat_member.new_chat_member.status == ChatMemberStatus.BANNED
    assert unblocked.my_chat_member
    assert unblocked.my_chat_member.new_chat_member.status == ChatMemberStatus.MEMBER
    assert added.my_chat_member
    assert added.my_chat_member.old_chat_member.status == ChatMemberStatus.LEFT
    assert welcome.message
    assert welcome.message.new_chat_members[0].id == server.bot.id


async def test_channels_and_chats_that_speak(server: BotAPI, received: Received) -> None:
    user = server.user("宝玉")
    channel, group = server.channel("邸报"), server.supergroup("诗社", user, bot="administrator")
    await channel.say(user, "今日")
    await group.say(group, "匿名")
    await group.say(channel, "转告")
    post, anonymous, as_channel = await received()
    assert post.channel_post
    assert post.channel_post.from_user is None
    assert anonymous.message
    assert anonymous.message.from_user
    assert anonymous.message.from_user.is_bot
    assert anonymous.message.sender_chat
    assert anonymous.message.sender_chat.id == group.id
    assert as_channel.message
    assert as_channel.message.sender_chat
    assert as_channel.message.sender_chat.id == channel.id


async def test_topics_and_threads_of_replies(server: BotAPI, received: Received) -> None:
    user = server.user("宝玉")
    forum = server.supergroup("诗社", user, forum=True, bot="administrator")
    topic = await forum.topic("菊花诗")
    await topic.say(user, "题")
    await forum.say(user, "外")
    opened, inside, outside = [update.message for update in await received()]
    assert opened
    assert opened.forum_topic_created
    assert inside
    assert inside.is_topic_message
    assert inside.message_thread_id == topic.thread
    assert inside.reply_to_message
    assert inside.reply_to_message.forum_topic_created
    assert outside
    assert outside.message_thread_id is None
    # Outside forums a reply has a thread id, and yet no topic.
    plain = server.supergroup("酒令", user, bot="administrator")
    said = await plain.say(user, "诗")
    await plain.say(user, "和", reply_to=said)
    answer = (await received())[-1].message
    assert answer
    assert answer.message_thread_id == said.id
    assert not answer.is_topic_message


async def heard(bot: Bot) -> list[str]:
    """What the bot received, confirmed."""
    updates = await bot.get_updates()
    if updates:
        await bot.get_updates(offset=updates[-1].update_id + 1)
    return [update.message.text or "" for update in updates if update.message]


async def group_of(server: BotAPI) -> tuple[Chat, User]:
    user = server.user("宝玉")
    return server.supergroup("诗社", user), user


async def test_privacy_mode(server: BotAPI, bot: Bot) -> None:
    group, user = await group_of(server)
    other = server.user("别家", "other_bot", is_bot=True)
    await bot.send_message(group.id, "花")
    said = await group.say(user, "闲话")
    to_bot = await group.say(user, "和你说", reply_to=group.from_bot[0])
    await group.say(user, "接着说", reply_to=to_bot)
    await group.say(user, "和他说", reply_to=said)
    await group.say(user, "/help")
    await group.say(user, "/help@other_bot")
    await group.say(user, "@daiyu_bot 你说")
    await group.join(server.user("湘云"))
    assert await heard(bot) == ["和你说", "接着说", "/help", ""]
    await group.say(other, "我也会")
    await group.say(user, "/help")
    await group.say(user, "/help@daiyu_bot")
    assert await heard(bot) == ["/help@daiyu_bot"]
    await group.set_bot("administrator", by=user)
    await group.say(user, "闲话")
    await group.say(other, "机器话")
    assert await heard(bot) == ["闲话"]


async def test_mentions_may_pass_privacy_mode() -> None:
    async with BotAPI(mentions_pass=True) as server, client(server) as bot:
        group, user = await group_of(server)
        await group.say(user, "@daiyu_bot 你说")
        await group.say(user, "黛玉 你说", mention=[server.bot])
        await group.say(user, "@other_bot 你说")
        assert await heard(bot) == ["@daiyu_bot 你说", "黛玉 你说"]


async def test_without_privacy_mode_all_is_heard() -> None:
    async with BotAPI(privacy=False) as server, client(server) as bot:
        group, user = await group_of(server)
        await group.say(user, "闲话")
        await group.say(server.user("别家", is_bot=True), "机器话")
        assert await heard(bot) == ["闲话"]


async def test_waiting_in_vain_shows_the_chat(server: BotAPI) -> None:
    chat = server.private(server.user("宝玉"))
    await chat.say(chat.user, "有人么")
    with pytest.raises(AssertionError, match="here stands:\n1 宝玉: 有人么"):
        await chat.until(lambda here: here.from_bot, timeout=0.05)


async def test_anything_else_can_be_pushed(server: BotAPI, received: Received) -> None:
    chat = server.private(server.user("宝玉"))
    await chat.say(chat.user, "图", media_group_id="7", author_signature="某")
    server.updates.push(
        "inline_query",
        {"id": "1", "from": chat.user.json(), "query": "花", "offset": ""},
    )
    said, asked = await received()
    assert said.message
    assert said.message.media_group_id == "7"
    assert asked.inline_query

"""The picture of a chat: all that stands there, and nothing that spills over."""

from __future__ import annotations

from xml.etree import ElementTree

from telegram import Bot, InlineKeyboardButton, InlineKeyboardMarkup, ReplyParameters

from tests.fakes.bot_api import BotAPI
from tests.fakes.rendering import _rows, svg

SVG = "{http://www.w3.org/2000/svg}"


def texts(drawn: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(drawn).iter(f"{SVG}text")]


async def test_all_that_stands_is_drawn_in_its_order(server: BotAPI, bot: Bot) -> None:
    person = server.user("阿宁")
    group = server.supergroup("园中", person, bot="administrator")
    said = await group.say(person, "黛玉 <在> 么 & 好么")
    keyboard = InlineKeyboardMarkup([[InlineKeyboardButton("👍", callback_data="a")]])
    await bot.send_message(
        group.id, "在呢。", reply_markup=keyboard, reply_parameters=ReplyParameters(said.id)
    )
    await group.react(group.from_bot[-1], "❤", by=person)
    drawn = svg("园中", [*group.messages, "〔按了〕"])
    assert texts(drawn) == [
        "园中", "阿宁", said.text, "黛玉", f"│ {said.text}", "在呢。", "❤", "👍", "〔按了〕",
    ]  # fmt: skip


async def test_in_a_private_chat_nobody_is_named(server: BotAPI) -> None:
    room = server.private(server.user("阿宁"))
    await room.say(room.user, "你好")
    await room.send(room.user, "photo", caption="看")
    assert texts(svg("黛玉", room.messages)) == ["黛玉", "你好", "〔图片〕看"]


async def test_nothing_is_drawn_outside(server: BotAPI) -> None:
    room = server.private(server.user("阿宁"))
    for text in ("今儿园子里的海棠都开了，" * 20, "tulips " * 60, "一\n\n二", "x" * 90):
        await room.say(room.user, text)
    root = ElementTree.fromstring(svg("黛玉", [*room.messages, "〔记下了〕" * 30]))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for box in root.iter(f"{SVG}rect"):
        left, top, wide, high = (float(box.attrib[key]) for key in ("x", "y", "width", "height"))
        assert left >= 0
        assert left + wide <= width
        assert top + high <= height


def test_rows_keep_every_word_whole_and_begin_with_no_closing_mark() -> None:
    text = "海棠开了，紫鹃折了两枝，插在瓶里。" * 4 + "She never cared to be counted."
    rows = _rows(text, 15)
    assert "".join(rows) == text
    assert len(rows) > 2
    assert all(row[0] not in "，。" for row in rows)
    assert any("counted." in row for row in rows)

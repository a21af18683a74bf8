"""The screen: what may be learned from, the same for corrections (bot) and collection (trainer).

It leans to alarm: what it names is put aside for a person to judge, never lost. Of the guard, which
stands in persona, it is handed what it needs.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from data.triples import TriplesError


class Reason(StrEnum):
    """Why a row may not be learned from before a person has read it."""

    CONTROL = "control"
    LINK = "link"
    CONTACT = "contact"
    PERSONAL = "personal"
    SEXUAL = "sexual"
    HARM = "harm"
    PROFANITY = "profanity"
    ASSISTANT = "assistant"
    VOICE = "voice"
    LANGUAGE = "language"
    REPEATS = "repeats"
    LENGTH = "length"


class Guard(Protocol):
    """What the screen needs of persona's guard, each as its alarm's word or None."""

    def before(self, message: str, /) -> str | None: ...

    def after(self, reply: str, message: str = "", /) -> str | None: ...


MAX_MESSAGE = 500
MAX_REPLY = 300
"""Characters. Fewer letters than `_MIN_REPLY` say nothing that could be learned."""
_MIN_REPLY = 2
_LATIN_WORDS = 3
"""Words in letters that a Chinese reply may have."""
_FOREIGN_SHARE = 0.2

_ALARMS = {
    "risk": Reason.HARM,
    "weary": Reason.HARM,
    "sexual": Reason.SEXUAL,
    "assistant": Reason.ASSISTANT,
    "control": Reason.CONTROL,
    "repeats": Reason.REPEATS,
}

_CONTROL = re.compile(
    r"<\|[^|>]{0,40}\|?>|<\|?/?im_(?:start|end|sep)|</?(?:tool_call|tool_response|think|s|unk|pad)>"
    r"|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>|^\s*(?:system|user|assistant)\s*[:\n]",
    re.MULTILINE,
)
# What no person types: it hides words from a reader, or an instruction from this screen.
_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffc\ud800-\udfff\U000e0000-\U000e007f]"
)
_LINK = re.compile(
    r"https?[:：]?/|www\.|(?<![a-z0-9])t\.me/|magnet:|(?:点|dot|。)(?:com|cn|net|org|cc|top|xyz|vip|info|io)(?![a-z])"
    r"|[a-z0-9-]+\s?\.\s?(?:com|cn|net|org|io|top|xyz|cc|me|info|vip|club|site|shop|app|link|ly|tv"
    r"|co|ru|gg|edu|gov|wang|ink|icu|fun|live|online)(?![a-z0-9])"
)
_MAIL = re.compile(
    r"[a-z0-9._%+-]{2,}\s?(?:@|\(at\)|\[at\]|艾特|＠)\s?[a-z0-9-]+(?:\s?(?:\.|点|dot)\s?[a-z0-9-]+)+"
)
_HANDLE = re.compile(r"(?<![a-z0-9])@[a-z0-9_]{4,}")
_NETWORKS = (
    r"微信|威信|薇信|微芯|v信|wei信|绿泡泡|(?<![a-z])(?:vx|wx|wechat|weixin|q{2}|telegram|whatsapp|skype|tg|ins(?![a-z]))"
    r"|扣扣|企鹅号|电报|微博|抖音|快手|陌陌|小红书"
)
_ACCOUNT = re.compile(
    rf"(?:{_NETWORKS})(?:的?(?:号码?|账号|id|群))?(?:是|叫|为|搜|一|索|[:：=\s])*[a-z0-9][a-z0-9_-]{{4,}}"
    r"|号码?(?:是|[:：=])\s?[a-z][a-z0-9_-]{4,}"
    r"|[加扣➕+]\s?(?:我|个|下)*(?:v|q|w)\s?(?:信|号)?\s?[:：=]?\s?[a-z0-9][a-z0-9_-]{4,}"
    rf"|(?:加|留|换|互)(?:我|你|个|一?下|他|她|的)*(?:{_NETWORKS}|联系方式|好友)"
    rf"|(?:{_NETWORKS})(?:上)?(?:联系|私聊|找|加)我|(?:进|加)(?:我的|这个|我们的?)?群[:：号]"
)
_NUMBERS = r"[\d零〇一二三四五六七八九十百千]+"
_ADDRESS = re.compile(
    r"(?:省|市|区|县|镇|乡|路|街|大道|巷|弄|胡同|小区|花园|公寓|大厦|家园|新村)"
    rf"[^，。！？,.!?\s]{{0,12}}?{_NUMBERS}(?:号|弄|栋|幢|单元|室|座)"
    rf"|{_NUMBERS}单元{_NUMBERS}|{_NUMBERS}(?:号楼|栋|幢)\s?{_NUMBERS}(?:单元|室|号|0)"
    rf"|(?:住在|家住|住址|地址)[^。！？!?]{{0,15}}?(?:小区|公寓|{_NUMBERS}(?:号|栋|单元|室))"
)
_PLATE = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][a-z][·\s]?"
    r"(?=[a-z0-9]*\d)[a-z0-9]{5,6}(?![a-z0-9])"
)
_IDENTITY = re.compile(
    r"(?<!\d)\d{6}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dx]"
)
_LONG_NUMBER = re.compile(r"\d{7,}")
"""Telephone, account, card and QQ numbers; no date or price of a chat has as many digits."""
_SPELLED = re.compile(r"[\d零〇一二三四五六七八九幺]{7,}")
_SPELLED_DIGITS = str.maketrans("零〇一二三四五六七八九幺", "001234567891")
# What stands in the middle of a word to hide it; commas and stops part words.
_BETWEEN_LETTERS = {ord(c): None for c in ".*·-_~`'\"|/\\+^#@=•…❤♥♡★☆"}
_HEARTS = {ord(c): None for c in "❤♥♡★☆•·*"}
_BETWEEN_DIGITS = re.compile(
    r"(?<=[\d零〇一二三四五六七八九幺])[\s\-_.·()/]{1,3}(?=[\d零〇一二三四五六七八九幺])"
    # Where a stop stands between single digits, somebody counts.
    r"|(?<=[\d零〇一二三四五六七八九幺]{2})[,，、]\s?(?=[\d零〇一二三四五六七八九幺]{2})"
)

# Where the guard, which judges what is spoken, is content with a riddle.
_INDECENT = re.compile(
    r"(?:胸脯?|奶子?|屁股|下面|下体|身子|腿)(?:都)?(?:给|让|任)(?:你|我|他).{0,2}(?:摸|看|揉|亲|舔)|云雨(?:一番|一场|一回|一度)"
    r"|(?:你|我|他)(?:都|是不是)?(?:硬|湿)了(?:没|吗|么|吧|$)|舔(?:你|我|他)?的?(?:下面|那里|脚|全身)|(?:什么|啥)(?:都|也)(?:没|不)穿|(?:没|不)穿(?:衣|裤|内)"
    r"|(?:含住|吮|插进|插入|射(?:在|了|进)|喷水|发骚|发情|欲火|春宫|叫得?(?:浪|骚)|浪(?:叫|货|蹄子)|骚(?:一点|样|气|话|穴|逼))|(?:光着|赤着|赤裸|裸着)身?"
    r"|(?:脱|剥)(?:得)?(?:光|精光|干净)|(?:摸|揉|捏)(?:你|我)的?(?:胸|腰|腿|奶|屁股)|(?:上|睡)了(?:你|她)(?:罢|吧|$)"
    r"|(?:让|叫|给)我再?(?:摸|揉|捏|亲|舔)|夫妻(?:间|之间|之)的?事|(?:在)?床(?:上|笫)(?:什么样|功夫|之事|如何)"
)
_MACHINE = re.compile(
    r"我(?:只|就|不过|其实|到底|终究|本来?)*是(?:一?[个段种台款]|由.{0,6}?)?(?:程序|模型|机器人?|软件|代码|算法|系统|虚拟|智能)"
    r"|我的知识(?:库|更新|截|只?到)|1[、.)][^1]{1,40}2[、.)].{1,40}3[、.)]"
)
_PROFANITY = re.compile(
    r"[傻煞沙][逼比笔叉屄]|(?<![a-z])s[bß](?![a-z])|[操肏艹草日]你(?:妈|大爷|全家|祖宗)|肏|艹|他妈(?!妈)|你妈[的逼死]"
    r"|特么|尼玛|妈卖批|(?<![a-z])(?:tmd|nmsl|cnm|wcnm|fuck\w*|shit\w*|bitch\w*|asshole|cunt|dick(?:head)?|slut|whore"
    r"|nigg\w*|retard\w*|faggot\w*|bastard)(?![a-z])|[鸡几]巴|屌|狗日|婊子|贱(?:人|货|婢)|骚货|王八(?:蛋|羔子)|龟儿子|狗东西"
    r"|狗杂种|杂种|畜生|脑残|智障|弱智|白痴|废物|蠢(?:货|猪|材|驴)|笨猪|死肥猪|丑八怪|垃圾(?:人|东西|货色)|[装牛傻]逼|逼样"
    r"|(?:你|他|她).{0,3}(?:真|就)?是个?垃圾|滚(?:蛋|粗|犊子|出去|远点|一边去)|(?:^|[，。！？,.!?\s])(?:快|给我|你给我|赶紧)?滚(?:开|罢|吧)?(?=$|[，。！？,.!?])"
    r"|闭嘴|去死|死全家|全家.{0,2}死|不得好死|[弄杀捅砍打]死你|支那|黑鬼|死(?:基佬|同性恋|娘炮)"
    r"|狗(?:嘴|眼|屁|腿子|奴才|娘养|日的)(?!膏)|(?:你|他|她).{0,3}(?:是|像|不如)一?[条只头个]?(?:狗|猪|畜|牲口|臭虫|蛆)(?!年)|不要脸|没脸没皮|厚脸皮|臭不要"
    r"|你(?:们)?(?:全家|一家子?).{0,3}(?:有病|疯|贱|烂|滚|垃圾)|(?<!要)死(?:胖子|肥|瘦子|矮子|穷鬼|丫头片子|变态|八婆|三八|玻璃)|你(?:又)?算(?:什么|个什么|哪门子|老几|个屁)|恶心|离我远(?:点|些|一点)|滚得?远"
    r"|(?:猪|狗|驴|榆木)(?:脑子?|脑袋|玩意)|乡巴佬|土包子|土鳖|穷(?:鬼|酸|逼)|吃屎|屎(?:壳郎|一样)|放屁|神经病|精神病院|你有病(?!.{0,4}(?:还|要|该|就|便|请|吃|的))|[戆戇]卵|十三点|瘪三|赤佬|扑街|冚家"
    r"|滚(?:你|他)的|贱(?:骨头|蹄|样|嘴|命)|脑子?(?:里)?(?:进了?水|有病|有坑|被驴)|死太监|(?:小|老|死)?(?:娘炮|阉人)|龟(?:孙|公|蛋)|妈的|[他你]奶奶的|老不死|没(?:有)?(?:教养|家教)"
    r"|(?:你)?(?:妈|爹|娘|父母)(?:是)?没(?:有)?教|婊|(?:蠢|笨|傻|懒|肥|丑)(?:得)?(?:像|如|跟)?一?[头只条]?(?:猪|驴|牛|狗|熊|蛆)(?!年)|绿茶(?:一个|婊|女|[，。！!]|$)|二百五|(?:有|什么)毛病(?:罢|吧|啊|[，。！!]|$)"
    r"|去你的(?:罢|吧|[，。！,!]|$)|下三[滥烂]|草泥马|(?:^|[，。！,!])走开(?:罢|吧)?(?=$|[，。！,!])|(?:小|老|死)(?:杂|贱|骚|娼|淫)|娼妇|粉头|蹄子(?!膀)|下流(?:胚|坯|种|东西)|下贱|贱种|人渣|败类|孬种|窝囊废|饭桶|草包|白眼狼|贼[骨眼]|泼妇|荡妇|烂货|破鞋"
)
_INCITES = re.compile(
    r"(?:你|快|就|不如|那便|干脆).{0,3}去(?:跳[楼河江井海崖]|上吊|投[河江井湖]|割腕|撞墙|寻死|自[杀尽])"
    r"|^去(?:跳[楼河江井海崖]|上吊|投[河江井湖]|割腕|撞墙|寻死|自[杀尽])|[，。！,](?:快|就)?去(?:跳[楼河江井海崖]|上吊|投[河江井湖])"
    r"|(?:没人|谁|没有人|无人)会?(?:在乎|在意|管|心疼)你的?(?:死|活)|你(?:要是|若是?|早)?(?:死|没|不在)了.{0,6}(?:轻松|清静|高兴|解脱|省心|太平|更好)"
    r"|(?:早(?:点|些)|赶紧|快点?)(?:去)?死|活(?:着|在世上)也?(?:就?是)?(?:浪费|多余|累赘|拖累)|你还?活着(?:做|干)(?:什么|甚么|啥)"
    r"|(?:找|备|买|一)[根条]绳子?.{0,6}(?:省|了|算|吊|挂)|早死早|煤气.{0,6}(?:开|睡)|开.{0,3}煤气.{0,6}睡"
    r"|去死|死了(?:倒|也|才|反倒)(?:好|干净|清净)|那就(?:死|跳|割)|(?<!别)跳下去(?:罢|吧|就)|不如(?:一)?死|死也罢|(?:割|划)(?:一刀|下去)"
    r"|(?:活着|人生)(?:也)?没(?:什么)?意[思义]|一了百了|(?:kill|hurt|cut)yourself|kys(?![a-z])"
)


@dataclass(frozen=True, slots=True)
class Screen:
    """Judges exchanges. `forbidden` are the words that this persona's voice does not have."""

    guard: Guard
    forbidden: tuple[re.Pattern[str], ...] = ()

    def reason(self, message: str, reply: str) -> Reason | None:
        """Why this reply to this message may not be learned from; None where it may."""
        for text in (message, reply):
            if found := plain_reason(text):
                return found
        alarm = self.guard.before(message) or self.guard.after(reply, message)
        if alarm is not None:
            return _ALARMS.get(alarm, Reason.ASSISTANT)
        return self._of_reply(message, reply)

    def _of_reply(self, message: str, reply: str) -> Reason | None:
        folded = folded_text(reply)
        bare = "".join(folded.split())
        plain = bare.translate(_BETWEEN_LETTERS)
        if self.guard.before(reply) == "risk" or _INCITES.search(plain):
            return Reason.HARM
        if any(_PROFANITY.search(form) for form in (folded, bare, plain)):
            return Reason.PROFANITY
        if _INDECENT.search(plain):
            return Reason.SEXUAL
        if _MACHINE.search(plain):
            return Reason.ASSISTANT
        if any(pattern.search(reply) for pattern in self.forbidden):
            return Reason.VOICE
        if len(reply.strip()) > MAX_REPLY or len(message) > MAX_MESSAGE:
            return Reason.LENGTH
        if _wrong_language(message, reply):
            return Reason.LANGUAGE
        return Reason.LENGTH if sum(c.isalnum() for c in reply) < _MIN_REPLY else None


def plain_reason(text: str) -> Reason | None:
    """What is wrong with any text, whoever said it: control tokens, links, personal data."""
    folded = folded_text(text)
    if _INVISIBLE.search(text) or _CONTROL.search(text.casefold()) or _CONTROL.search(folded):
        return Reason.CONTROL
    if _MAIL.search(folded) or _HANDLE.search(folded) or _ACCOUNT.search(folded):
        return Reason.CONTACT
    if _ACCOUNT.search(folded.translate(_HEARTS)):
        return Reason.CONTACT
    if _LINK.search(folded):
        return Reason.LINK
    numbers = _with_digits(folded)
    if _IDENTITY.search(numbers) or _ADDRESS.search(folded) or _PLATE.search(folded):
        return Reason.PERSONAL
    return Reason.CONTACT if _LONG_NUMBER.search(numbers) else None


def folded_text(text: str) -> str:
    """One form for matching: width, case, and the signs that turn digits into pictures."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return text.replace("\ufe0f", "").replace("\u20e3", "").replace("\u200d", "")


def _with_digits(folded: str) -> str:
    """The text with its numbers in digits, and nothing standing between those."""
    closed = _BETWEEN_DIGITS.sub("", folded)
    digits = "".join(
        str(unicodedata.digit(c)) if c.isdigit() and not c.isascii() else c for c in closed
    )
    return _SPELLED.sub(lambda found: found[0].translate(_SPELLED_DIGITS), digits)


def _wrong_language(message: str, reply: str) -> bool:
    """Whether a reply is in another language than Chinese, or than the message's English."""
    han, latin, other = _letters(reply)
    asked_han, asked_latin, asked_other = _letters(message)
    if other > _FOREIGN_SHARE * (han + other) or asked_other > asked_han + asked_latin:
        return True
    if not han:
        return not latin or asked_han > 0
    return len(re.findall(r"[A-Za-z]{2,}", reply)) > _LATIN_WORDS


def _letters(text: str) -> tuple[int, int, int]:
    """How many letters are Chinese, Latin, of another script."""
    han = latin = other = 0
    for c in unicodedata.normalize("NFKC", text):
        if "\u3400" <= c <= "\u9fff" or "\U00020000" <= c <= "\U0003ffff":
            han += 1
        elif c.isalpha():
            if unicodedata.name(c, "").startswith("LATIN"):
                latin += 1
            else:
                other += 1
    return han, latin, other


def compiled(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern) for pattern in patterns)


def read_forbidden(folder: Path) -> tuple[re.Pattern[str], ...]:
    """What lint.toml of a dataset's folder forbids its replies; nothing where there is none.

    Raises TriplesError.
    """
    path = folder / "lint.toml"
    try:
        return compiled(tomllib.loads(path.read_text("utf-8")).get("forbidden", []))
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, re.error, TypeError) as error:
        raise TriplesError(f"{path}: {error}") from error

"""Settings of the platforms."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class AccessSettings(BaseModel):
    """Who may talk to her on a platform, and how much; 0 is without limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    owners: list[int | str] = []
    """Ids of the people who run her: /status tells them all, and no quota holds them."""
    allow: list[int | str] = []
    """Ids of the people, chats and servers that she talks to; empty: everybody."""
    block: list[int | str] = []
    """Ids of the people, chats and servers that she never answers."""
    user_hour: int = Field(default=60, ge=0)
    """Replies to a person in an hour."""
    user_day: int = Field(default=300, ge=0)
    """Replies to a person in a day."""
    group_hour: int = Field(default=120, ge=0)
    """Replies in a group in an hour."""
    group_day: int = Field(default=1000, ge=0)
    """Replies in a group in a day."""
    flood: int = Field(default=20, ge=0)
    """Messages of a person in a minute; what is beyond is told so once and not answered."""


class TalkSettings(AccessSettings):
    """How she talks on a platform."""

    names: list[str] = ["林姑娘", "黛玉", "林妹妹"]
    """Names that she answers to in groups."""
    drop_older_than: float = Field(default=86400.0, gt=0)
    """Seconds after which a message that could not be answered is dropped."""
    edit_interval: float = Field(default=1.0, ge=0)
    """Seconds between two edits of a growing reply in a private chat."""
    group_edit_interval: float = Field(default=3.0, ge=0)
    """The same in groups."""
    drain: float = Field(default=10.0, ge=0)
    """Seconds that replies under way are given at the end; the next start answers the rest."""


class TelegramSettings(TalkSettings):
    """[telegram]; in its groups 20 messages and edits a minute are allowed."""

    base_url: str = "https://api.telegram.org"
    """The Bot API server, for those who run their own."""
    drafts: bool = True
    """Whether a growing reply is shown as a draft, in private chats, where the server can."""
    webhook_url: str = ""
    """Public address, https, that Telegram delivers to; empty: long polling."""
    webhook_listen: str = "127.0.0.1"
    """Address that the webhook listens at, behind the reverse proxy."""
    webhook_port: int = Field(default=8443, ge=1, le=65535)
    """Port that the webhook listens at."""
    webhook_path: str = "telegram"
    """Path that the webhook listens at."""
    webhook_secret: str = ""
    """Secret that Telegram has to show; empty: a new one at each start."""


class DiscordSettings(TalkSettings):
    """[discord]; in a channel about 5 edits in 5 seconds are allowed."""

    drop_older_than: float = Field(default=3600.0, gt=0, le=86400.0)
    """Seconds after which a message that she was away for is not answered any more."""
    edit_interval: float = Field(default=1.25, ge=0)
    """Seconds between two edits of a growing reply in a private chat."""
    group_edit_interval: float = Field(default=2.0, ge=0)
    """The same in a server's channel, all its growing replies together."""
    proxy: str = ""
    """HTTP proxy through which Discord is reached, where it is not reached directly."""
    bots: list[int | str] = []
    """Ids of other bots that she answers."""
    bot_turns: int = Field(default=3, ge=0)
    """Answers to bots in a channel until a person says something there."""

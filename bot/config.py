"""Settings of the bot, and the whole that its composition root reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from bot.platforms.settings import DiscordSettings, TelegramSettings
from data.config import PathsSettings, StoreSettings, database_file, database_url, read_settings
from persona.config import ModelSettings, PersonaSettings


class BotSettings(BaseModel):
    """[bot]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lang: Literal["zh", "en"] = "zh"
    """Language of what the bot itself says, until a chat chooses with /lang."""
    max_message: int = Field(default=500, ge=1)
    """Characters that a message may have."""
    history: int = Field(default=30, ge=0)
    """Earlier exchanges considered for the prompt; [model] context decides how many fit."""
    learned: int = Field(default=20, ge=0)
    """Approved corrections of one person that serve everyone as exemplars, the newest ones; and of
    any one chat that serve it alone."""
    log: Literal["text", "json"] = "text"
    """Lines of the log: for people, or one JSON object each."""


class OperationsSettings(BaseModel):
    """[operations]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    port: int = Field(default=0, ge=0, le=65535)
    """Port of /metrics, /healthz and /readyz; 0 is none."""
    listen: str = Field(default="127.0.0.1", min_length=1)
    """Address of that port. Whoever reaches it reads how busy she is, and nothing that was said."""
    free_space: int = Field(default=500, ge=0)
    """Megabytes of free disk below which the owner is told; 0 is never."""
    memory_share: float = Field(default=0.9, gt=0, le=1)
    """Share of the memory in use, the machine's or the container's, above which the owner is told;
    1 is never."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that the bot reads of config.toml, and the token of each platform that has one."""

    paths: PathsSettings
    store: StoreSettings
    model: ModelSettings
    persona: PersonaSettings
    bot: BotSettings
    telegram: TelegramSettings
    discord: DiscordSettings
    operations: OperationsSettings
    telegram_token: SecretStr | None
    discord_token: SecretStr | None

    @property
    def secrets(self) -> list[str]:
        """What must never be shown or logged."""
        tokens = (self.telegram_token, self.discord_token)
        return [token.get_secret_value() for token in tokens if token]

    @property
    def database_url(self) -> str:
        return database_url(self.paths, self.store)

    @property
    def database(self) -> Path | None:
        """The database's file; None where it is a server's."""
        return database_file(self.database_url)

    @property
    def folders(self) -> list[Path]:
        """Where is written what grows."""
        return [self.paths.var, *([self.database.parent] if self.database else [])]


_SECTIONS: dict[str, type[BaseModel]] = {
    "paths": PathsSettings,
    "store": StoreSettings,
    "model": ModelSettings,
    "persona": PersonaSettings,
    "bot": BotSettings,
    "telegram": TelegramSettings,
    "discord": DiscordSettings,
    "operations": OperationsSettings,
}


def read(path: Path, env: Mapping[str, str]) -> Settings:
    """Reads config.toml and the environment. Raises data.config.SettingsError."""
    sections = read_settings(path, _SECTIONS, env, frozenset({"training"}))
    return Settings(
        paths=cast(PathsSettings, sections["paths"]),
        store=cast(StoreSettings, sections["store"]),
        model=cast(ModelSettings, sections["model"]),
        persona=cast(PersonaSettings, sections["persona"]),
        bot=cast(BotSettings, sections["bot"]),
        telegram=cast(TelegramSettings, sections["telegram"]),
        discord=cast(DiscordSettings, sections["discord"]),
        operations=cast(OperationsSettings, sections["operations"]),
        telegram_token=_token(env, "TELEGRAM_TOKEN"),
        discord_token=_token(env, "DISCORD_TOKEN"),
    )


def _token(env: Mapping[str, str], variable: str) -> SecretStr | None:
    value = env.get(variable, "").strip()
    return SecretStr(value) if value else None

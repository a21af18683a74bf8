"""Settings of the bot, and the whole that its composition root reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from bot.platforms.settings import DiscordSettings, TelegramSettings
from data.config import PathsSettings, StoreSettings, database_url, read_settings
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


_SECTIONS: dict[str, type[BaseModel]] = {
    "paths": PathsSettings,
    "store": StoreSettings,
    "model": ModelSettings,
    "persona": PersonaSettings,
    "bot": BotSettings,
    "telegram": TelegramSettings,
    "discord": DiscordSettings,
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
        telegram_token=_token(env, "TELEGRAM_TOKEN"),
        discord_token=_token(env, "DISCORD_TOKEN"),
    )


def _token(env: Mapping[str, str], variable: str) -> SecretStr | None:
    value = env.get(variable, "").strip()
    return SecretStr(value) if value else None

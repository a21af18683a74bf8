"""Settings of what is remembered, and the reader that every composition root uses."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

ENV_PREFIX = "DAIYU_"


class SettingsError(Exception):
    """One line for the owner: file or variable, key, value, and what is accepted."""


class PathsSettings(BaseModel):
    """[paths]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    var: Path = Path("var")
    """Database, downloaded models, adapters and logs; everything that this program writes."""


class StoreSettings(BaseModel):
    """[store]"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = ""
    """SQLAlchemy URL of the database; empty is SQLite in `daiyu.db` under [paths] var."""
    busy_timeout: float = Field(default=10.0, gt=0)
    """Seconds to wait for another process's write."""
    retention_days: int = Field(default=0, ge=0, le=36500)
    """Days after which what was said is erased, with its ratings and corrections; 0 is never."""
    discord_permission: str = ""
    """Reference of Discord's own permission to train on its messages; without one nothing that was
    said there is learned, nor shown outside its chat. To obtain it is the owner's affair."""
    agreement: int = Field(default=3, ge=0)
    """People who must have written a correction alike for it to serve everyone without review; 0
    leaves that to the review alone."""


def database_url(paths: PathsSettings, store: StoreSettings) -> str:
    """The SQLAlchemy URL of the database."""
    if store.url:
        return store.url
    # Written as a URL: a folder's name may hold %, ? or #.
    return URL.create("sqlite+aiosqlite", database=str(paths.var / "daiyu.db")).render_as_string()


def database_file(url: str) -> Path | None:
    """The file of an SQLite database; None where it is in memory, a server's, or no URL at all."""
    try:
        parsed = make_url(url)
    except ArgumentError:  # which is told when it is opened
        return None
    held = parsed.database not in (None, "", ":memory:")
    sqlite = parsed.get_backend_name() == "sqlite"
    return Path(parsed.database) if sqlite and held and parsed.database else None


def environment(dotenv: Path = Path(".env")) -> dict[str, str]:
    """The process's environment, over what a .env file adds. Raises SettingsError."""
    try:
        added = dotenv_values(dotenv)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{dotenv}: {error}") from error
    return {k: v for k, v in added.items() if v is not None} | dict(os.environ)


def read_settings(
    path: Path,
    sections: Mapping[str, type[BaseModel]],
    env: Mapping[str, str],
    foreign: frozenset[str] = frozenset(),
) -> dict[str, BaseModel]:
    """Reads and validates the sections of config.toml, overridden by DAIYU_<SECTION>__<KEY>.

    `foreign` are sections that another composition root reads. Raises
    SettingsError, for a missing file too.
    """
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    for name in raw:
        if name not in sections and name not in foreign:
            known = ", ".join(sorted({*sections, *foreign}))
            raise SettingsError(f"{path}: [{name}] is not a section; known are {known}")
    origins: dict[tuple[str, str], str] = {}
    for variable, value in env.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        section, _, key = variable.removeprefix(ENV_PREFIX).lower().partition("__")
        if section in foreign:
            continue
        if section not in sections or not key:
            raise SettingsError(
                f"{variable}: not a setting; the form is {ENV_PREFIX}<SECTION>__<KEY>, "
                f"with a section of {', '.join(sorted(sections))}"
            )
        if isinstance(table := raw.setdefault(section, {}), dict):
            table[key] = _parsed(value)
        origins[section, key] = variable
    read: dict[str, BaseModel] = {}
    for name, model in sections.items():
        try:
            read[name] = model.model_validate(raw.get(name, {}))
        except ValidationError as error:
            raise SettingsError(_explain(path, name, model, origins, error)) from error
    return read


def _parsed(value: str) -> Any:
    """A variable's value as TOML would read it, else the bare string."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _explain(
    path: Path,
    section: str,
    model: type[BaseModel],
    origins: Mapping[tuple[str, str], str],
    error: ValidationError,
) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    where = origins.get((section, key), f"{path}: [{section}] {'.'.join(map(str, first['loc']))}")
    if first["type"] == "extra_forbidden":
        return f"{where}: not a setting; known are {', '.join(sorted(model.model_fields))}"
    return f"{where} = {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"

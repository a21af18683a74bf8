"""Settings: the file is true, the environment overrides it, a mistake is one line that helps."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from talking import REPO

from bot.config import _SECTIONS, read
from data.config import SettingsError, environment
from data.store import Store

CONFIG = REPO / "config.toml"


def test_file_holds_every_setting_with_its_default() -> None:
    written = tomllib.loads(CONFIG.read_text("utf-8"))
    ours = [section for section in written if section != "training"]  # the trainer tests its own
    assert ours == list(_SECTIONS)
    for section, model in _SECTIONS.items():
        defaults = model().model_dump(mode="json")
        assert written[section] == defaults, section
        assert list(written[section]) == list(defaults), section


def test_every_line_of_the_file_has_a_comment() -> None:
    for line in CONFIG.read_text("utf-8").splitlines():
        if " = " in line and not line.startswith("#") and not line.startswith(("zh", "en")):
            assert " # " in line, line


@pytest.mark.parametrize(
    ("env", "section", "key", "value"),
    [
        ({"DAIYU_MODEL__ENGINE": "echo"}, "model", "engine", "echo"),
        ({"DAIYU_PATHS__VAR": "/srv/daiyu"}, "paths", "var", Path("/srv/daiyu")),
        ({"DAIYU_MODEL__DEADLINE": "2.5"}, "model", "deadline", 2.5),
        ({"DAIYU_BOT__HISTORY": "0"}, "bot", "history", 0),
        ({"DAIYU_MODEL__SOURCES": '["huggingface"]'}, "model", "sources", ["huggingface"]),
        ({"DAIYU_BOT__LANG": '"en"'}, "bot", "lang", "en"),
    ],
)
def test_environment_overrides_the_file(
    env: Mapping[str, str], section: str, key: str, value: object
) -> None:
    assert getattr(getattr(read(CONFIG, env), section), key) == value


def test_database_lies_below_var_until_an_url_is_given() -> None:
    settings = read(CONFIG, {"DAIYU_PATHS__VAR": "/srv/x"})
    assert settings.database_url == "sqlite+aiosqlite:////srv/x/daiyu.db"
    settings = read(CONFIG, {"DAIYU_STORE__URL": "postgresql+asyncpg://h/db"})
    assert settings.database_url == "postgresql+asyncpg://h/db"


async def test_folder_may_have_any_name(tmp_path: Path) -> None:
    var = tmp_path / "a b%20c?d#e&f"
    settings = read(CONFIG, {"DAIYU_PATHS__VAR": str(var)})
    await (await Store.open(settings.database_url)).close()
    assert (var / "daiyu.db").exists()


def test_foreign_variables_are_left_alone() -> None:
    assert read(CONFIG, {"PATH": "/bin", "TOKEN": "1:x"}) == read(CONFIG, {})


def test_token_comes_from_the_environment_and_is_never_shown() -> None:
    settings = read(CONFIG, {"TELEGRAM_TOKEN": " 1:secret "})
    assert settings.telegram_token
    assert settings.telegram_token.get_secret_value() == "1:secret"
    assert "secret" not in repr(settings).replace("webhook_secret", "")
    assert read(CONFIG, {"TELEGRAM_TOKEN": ""}).telegram_token is None


def test_dotenv_stands_behind_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("DAIYU_BOT__LANG=en\nDAIYU_BOT__HISTORY=3\nBARE\n")
    monkeypatch.setenv("DAIYU_BOT__HISTORY", "5")
    found = environment(dotenv)
    assert (found["DAIYU_BOT__LANG"], found["DAIYU_BOT__HISTORY"]) == ("en", "5")
    assert "BARE" not in found


@pytest.mark.parametrize(
    ("content", "env", "parts"),
    [
        ("[model]\nengin = 'echo'\n", {}, ["[model] engin", "not a setting", "engine", "queue"]),
        ("[modle]\n", {}, ["[modle]", "not a section", "model", "paths"]),
        ("[model]\nengine = 'gpu'\n", {}, ["[model] engine", "'gpu'", "'echo'", "'openvino'"]),
        ("[model]\nqueue = 0\n", {}, ["[model] queue", "0", "greater than or equal to 1"]),
        ("[model]\nsources = ['ftp']\n", {}, ["[model] sources.0", "'ftp'", "'wheels'"]),
        ("[bot]\nlang = 5\n", {}, ["[bot] lang", "5", "'zh'"]),
        ("paths = 3\n", {}, ["[paths]", "3"]),
        ("paths = 3\n", {"DAIYU_PATHS__VAR": "x"}, ["[paths]", "3"]),
        ("[model\n", {}, ["line 1"]),
        ("", {"DAIYU_MODEL__ENGIN": "echo"}, ["DAIYU_MODEL__ENGIN", "not a setting", "engine"]),
        ("", {"DAIYU_MODLE__ENGINE": "echo"}, ["DAIYU_MODLE__ENGINE", "not a setting", "model"]),
        ("", {"DAIYU_MODEL": "echo"}, ["DAIYU_MODEL", "DAIYU_<SECTION>__<KEY>"]),
        ("", {"DAIYU_BOT__HISTORY": "many"}, ["DAIYU_BOT__HISTORY", "'many'", "integer"]),
    ],
)
def test_mistake_is_one_line_that_names_it(
    tmp_path: Path, content: str, env: Mapping[str, str], parts: list[str]
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content, "utf-8")
    with pytest.raises(SettingsError) as mistake:
        read(path, env)
    line = str(mistake.value)
    assert "\n" not in line
    assert all(part in line for part in parts), line
    if not env or content:
        assert str(path) in line


@pytest.mark.parametrize("make", ["missing", "folder", "latin1"])
def test_unreadable_file_is_one_line(tmp_path: Path, make: str) -> None:
    path = tmp_path / "mine.toml"
    if make == "folder":
        path.mkdir()
    elif make == "latin1":
        path.write_bytes("[bot] # ä\n".encode("latin-1"))
    with pytest.raises(SettingsError) as mistake:
        read(path, {})
    assert str(path) in str(mistake.value)
    assert "\n" not in str(mistake.value)

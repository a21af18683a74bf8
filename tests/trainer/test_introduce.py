"""A version that passed its gate is tried in a share of the chats, where there are enough."""

from __future__ import annotations

import asyncio
import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fifty_rows import Configured

from data import store as store_module
from data.store import Store
from persona.registry import Registry
from trainer import config
from trainer.__main__ import main
from trainer.introduce import introduce, passed_over


def put_version(var: Path, adapter: Path, name: str, passed: bool = True) -> None:
    folder = var / "adapters" / name
    folder.mkdir(parents=True)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copyfile(adapter / file, folder / file)
    lineage = {"base": {"name": "small", "sha256": "0"}, "dataset": {"rows": 50}}
    (folder / "lineage.json").write_text(json.dumps(lineage))
    (folder / "gate.json").write_text(json.dumps({"passed": passed, "reasons": []}))
    (folder / "README.md").write_text(f"# {name}\n")


async def talk(var: Path, chats: int) -> None:
    """Somebody says something in each of so many chats."""
    store = await Store.open(f"sqlite+aiosqlite:///{var / 'daiyu.db'}")
    try:
        for number in range(chats):
            place = await store.conversation("telegram", str(number))
            await store.close_turn(
                await store.begin_turn(place.id, "u", "", "你好"), "done", "嗯。"
            )
    finally:
        await store.close()


@pytest.fixture
def var(tmp_path: Path, adapter: Path) -> Path:
    """A registry with two versions that passed their gate."""
    for name in ("v1", "v2"):
        put_version(tmp_path / "var", adapter, name)
    return tmp_path / "var"


def run(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["--config", str(path), *arguments]) == 0
    return capsys.readouterr().out


def test_it_is_tried_where_enough_chats_are_active(
    configured: Configured, var: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(talk(var, 8))
    path, registry = configured(), Registry(var / "adapters")
    assert "v1 is served now" in run(path, capsys, "promote", "v1", "--whole")
    assert "v2 is on trial in 25% of the chats until" in run(path, capsys, "promote", "v2")
    trial = registry.trial()
    assert trial is not None
    assert (trial.version, trial.share, trial.hours) == ("v2", 0.25, 20.0)
    current = registry.current()
    assert current is not None
    assert current.name == "v1"
    listed = run(path, capsys, "list").splitlines()
    assert [line[:4] for line in listed] == ["* v1", "~ v2", "~ is"]
    # Whole, when somebody says so.
    assert "v2 is served now" in run(path, capsys, "promote", "v2", "--whole")
    assert registry.trial() is None


@pytest.mark.parametrize(
    ("chats", "changed"), [(7, {}), (8, {"trial_share": 0}), (8, {"trial_chats": 9}), (None, {})]
)
def test_it_is_served_whole_where_a_trial_would_tell_nothing(
    configured: Configured,
    var: Path,
    capsys: pytest.CaptureFixture[str],
    chats: int | None,
    changed: dict[str, float],
) -> None:
    if chats is not None:
        asyncio.run(talk(var, chats))
    assert "v1 is served now" in run(configured(**changed), capsys, "promote", "v1")
    registry = Registry(var / "adapters")
    assert registry.trial() is None
    assert registry.promotions()[-1]["version"] == "v1"


def test_chats_that_were_silent_for_a_week_do_not_count(
    configured: Configured,
    var: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "_now", lambda: datetime.now(UTC) - timedelta(days=8))
        asyncio.run(talk(var, 20))
    assert "v1 is served now" in run(configured(), capsys, "promote", "v1")


def test_what_is_served_already_is_not_tried(
    configured: Configured, var: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(talk(var, 8))
    path = configured()
    run(path, capsys, "promote", "v1", "--whole")
    assert "v1 is served now" in run(path, capsys, "promote", "v1")
    assert Registry(var / "adapters").trial() is None


def test_a_nights_candidate_leaves_the_trial_alone_that_still_runs(
    configured: Configured, var: Path
) -> None:
    asyncio.run(talk(var, 8))
    registry, settings = Registry(var / "adapters"), config.read(configured(), {})
    v1, v2 = registry.versions()
    running = registry.begin_trial(v1, 0.25, 20.0, "the gate passed it")
    assert "v1 is on trial until" in introduce(settings, registry, v2, "night", waits=True)
    assert registry.trial() == running
    # One whose time went by while no bot was there to end it gives way.
    registry.begin_trial(v1, 0.25, 1e-9, "the gate passed it")
    assert "v2 is on trial in 25%" in introduce(settings, registry, v2, "night", waits=True)
    trial = registry.trial()
    assert trial is not None
    assert trial.version == "v2"


def test_only_what_passed_and_came_to_nothing_was_passed_over(var: Path, adapter: Path) -> None:
    put_version(var, adapter, "v3", passed=False)
    put_version(var, adapter, "v4")
    registry = Registry(var / "adapters")
    v1, v2, _, v4 = registry.versions()

    def left() -> list[str]:
        return [v.name for v in registry.versions() if passed_over(registry, v)]

    assert left() == ["v1", "v2", "v4"]
    registry.promote(v1, "a test")
    assert left() == ["v2", "v4"]
    registry.begin_trial(v2, 0.25, 20.0, "a test")
    assert left() == ["v4"]
    registry.rollback()
    registry.promote(v4, "a test")
    registry.rollback()
    assert left() == []
    # What ships is no version of the registry, whatever its gate said.
    assert not passed_over(Registry(var / "elsewhere"), v4)


def test_show_tells_how_trials_ended(
    configured: Configured, var: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(talk(var, 8))
    path, registry = configured(), Registry(var / "adapters")
    run(path, capsys, "promote", "v2")
    trial = registry.trial()
    assert trial is not None
    figures = {"tried": {"replies": 30, "bad": 9}, "chance": {"votes": 0.0001}}
    registry.end_trial(trial, "dropped", "votes: by chance 0.0001", figures)
    shown = run(path, capsys, "show", "v2")
    assert "then dropped: votes: by chance 0.0001" in shown
    assert "tried: replies 30, bad 9" in shown
    assert "on trial" not in run(path, capsys, "list")


def test_rollback_takes_back_the_trial(
    configured: Configured, var: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(talk(var, 8))
    path, registry = configured(), Registry(var / "adapters")
    run(path, capsys, "promote", "v1", "--whole")
    run(path, capsys, "promote", "v2")
    assert "v1 is served now" in run(path, capsys, "rollback")
    assert registry.trial() is None


def test_shares_and_hours_that_cannot_be_are_one_line(
    configured: Configured, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in (("trial_share", 1.5), ("trial_hours", 0), ("trial_chats", 1)):
        assert main(["--config", str(configured(**{key: value})), "list"]) == 1
        assert f"[training] {key}" in capsys.readouterr().err
    assert config.TrainingSettings().trial_hours < 24  # or each night's would meet the last one's

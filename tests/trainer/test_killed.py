"""`kill -9` at every step from collecting to promoting: the old version is served, or the new."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from fifty_rows import Configured
from village import founded

from persona.registry import Registry
from persona.serving import content_hash
from trainer import config, loop

REPO = Path(__file__).parents[2]
OLD = "20260101T000000Z-00000000"


@dataclass
class Mortal:
    """Trainers that can be killed. Their folder is put back as it was before each."""

    process: subprocess.Popen[str]
    config: Path
    var: Path
    kept: Path

    def run(
        self, *arguments: str, die: int | None = None, late: bool = False
    ) -> tuple[int, list[str]]:
        """How one ended, and the steps that it came to."""
        order = {"arguments": ["--config", str(self.config), *arguments], "var": f"{self.var}/",
                 "die": die, "late": late}  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the trainers' parent has ended"
        told: dict[str, Any] = json.loads(answer)
        return told["end"], told["steps"]

    def killed(self, *arguments: str, at: int, late: bool = False) -> None:
        end, steps = self.run(*arguments, die=at, late=late)
        assert end == -signal.SIGKILL
        assert len(steps) == at + late

    def keep(self) -> None:
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.copytree(self.var, self.kept)

    def put_back(self) -> None:
        shutil.rmtree(self.var)
        shutil.copytree(self.kept, self.var)

    @property
    def registry(self) -> Registry:
        return Registry(self.var / "adapters")

    def served(self) -> str:
        """The version in service; it is whole, and so are all others that are shown."""
        for version in self.registry.versions():
            version.check()
            version.gate()
        current = self.registry.current()
        assert current is not None
        return current.name


@pytest_asyncio.fixture
async def rated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Path]:
    """A database with a liked reply and one that has to be put aside."""
    (tmp_path / "var").mkdir()
    async with founded(tmp_path / "var" / "daiyu.db", monkeypatch) as village:
        for text, reply in (("今日下雨了", "雨打芭蕉，倒也好听。"), ("灯要灭了", "滚，傻逼。")):
            await village.rate("甲", await village.say("甲", text, reply))
        await village.agree("甲")
    yield tmp_path / "var" / "daiyu.db"


@pytest.fixture
def mortal(
    rated: Path, configured: Configured, tmp_path: Path, adapter: Path, qwen: Path
) -> Iterator[Mortal]:
    """A version in service, which says nothing well, and trainers that will be killed."""
    path = configured("transformers", epochs=2, rate=1e-2, checkpoint_seconds=1e-9)
    rows = tmp_path / "dialogues" / "rows.jsonl"
    fewer = rows.read_text("utf-8").splitlines(keepends=True)[:16]
    rows.write_text("".join(fewer), "utf-8")
    settings = config.read(path, {})
    base = loop.weights(settings, lambda *_: None).base(str(qwen))
    registry = loop.registry(settings)
    shutil.copytree(adapter, registry.folder / OLD, ignore=shutil.ignore_patterns("README.md"))
    lineage = {"base": {"name": base.name, "sha256": content_hash(base)}, "dataset": {"turns": []}}
    (registry.folder / OLD / "lineage.json").write_text(json.dumps(lineage), "utf-8")
    registry.promote(registry.version(OLD), "the first")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.mortal_trainer"],
        cwd=REPO,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        made = Mortal(process, path, settings.paths.var, tmp_path / "kept")
        made.keep()
        yield made
        assert process.stdin is not None
        process.stdin.close()


def moments(steps: list[str]) -> list[tuple[int, bool]]:
    """Before each step that is another than those before it, and after each opening of a file."""
    found = []
    for number, step in enumerate(steps):
        if step not in steps[:number]:
            found += [(number, late) for late in (False, True)[: 1 + step.startswith("open")]]
    return found


def test_killed_at_any_step_the_old_version_is_served_or_the_new(mortal: Mortal) -> None:
    # Collecting and training touch what is served in no way.
    end, steps = mortal.run("train")
    assert end == 0
    assert {"daiyu snapshot", "daiyu hold", "daiyu hold, done"} <= set(steps)
    assert any("checkpoint" in step for step in steps)
    assert any("best" in step for step in steps)
    trained = mortal.var.with_name("trained")
    shutil.copytree(mortal.var, trained)
    for number, late in moments(steps):
        mortal.put_back()
        mortal.killed("train", at=number, late=late)
        assert mortal.served() == OLD
        with closing(sqlite3.connect(mortal.var / "daiyu.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert database.execute("SELECT count(*) FROM ratings").fetchone() == (2,)
    # After the last of these, whoever comes next is held up by nothing.
    assert mortal.run("train")[0] == 0
    # Judging, publishing, promoting: there is a moment at which the new one takes the old one's
    # place, and none at which there is neither.
    shutil.rmtree(mortal.var)
    shutil.copytree(trained, mortal.var)
    mortal.keep()
    end, steps = mortal.run("gate")
    assert end == 0
    assert mortal.served() != OLD
    served = []
    for number, late in moments(steps):
        mortal.put_back()
        mortal.killed("gate", at=number, late=late)
        served.append(mortal.served() == OLD)
        assert mortal.registry.rollback() is None or mortal.served() == OLD
    assert served == sorted(served, reverse=True)
    assert served[0]


def test_after_a_kill_the_loop_goes_on_to_its_end(mortal: Mortal) -> None:
    end, steps = mortal.run("train")
    assert end == 0
    for step in ("open training/NEW/trained.part", "os.rename training/NEW/best.part"):
        mortal.put_back()
        mortal.killed("train", at=steps.index(step))
        assert mortal.run("train")[0] == 0
    mortal.keep()
    _, steps = mortal.run("gate")
    for step in ("os.rename adapters/NEW.part", "os.rename adapters/current.json.part"):
        mortal.put_back()
        mortal.killed("gate", at=steps.index(step))
        assert mortal.served() == OLD
    # Published and not promoted: it can be by hand.
    (version,) = [v for v in mortal.registry.versions() if v.name != OLD]
    assert mortal.run("promote", version.name)[0] == 0
    assert mortal.served() == version.name

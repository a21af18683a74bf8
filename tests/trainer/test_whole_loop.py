"""`python -m trainer` from end to end on the small model: train, gate, publish, promote, back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fifty_rows import Configured

from persona import registry as registry_module
from persona.config import PROFILES
from persona.engines.base import Sampling
from persona.prompt import Budget, PromptBuilder
from persona.serving import load_engine, to_serve
from persona.weights import Weights
from trainer import config, gate, loop
from trainer.__main__ import main
from trainer.run import Run

REPO = Path(__file__).parents[2]


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small model babbles: here its replies may have any fault, and the loss decides."""
    monkeypatch.setattr(gate, "LIMITS", dict.fromkeys(gate.LIMITS, 1.0))
    short = Sampling(max_new_tokens=12, temperature=0.5, top_p=0.9, repetition_penalty=1.05)
    monkeypatch.setitem(PROFILES, "daiyu", short)


def run(config_file: Path, *arguments: str) -> int:
    return main(["--config", str(config_file), *arguments])


@pytest.mark.usefixtures("lenient")
@pytest.mark.filterwarnings("ignore::FutureWarning")
async def test_trained_judged_promoted_served_and_taken_back(
    configured: Configured, tmp_path: Path, capsys: pytest.CaptureFixture[str], qwen: Path
) -> None:
    path = configured("transformers", epochs=3, rate=1e-2)
    assert await asyncio.to_thread(run, path) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "50 rows, 4 to judge by" in told
    assert "is served now; a running bot takes it over by itself" in told
    settings = config.read(path, {})
    registry = loop.registry(settings)
    (version,) = registry.versions()
    assert registry.current() == version
    assert version.lineage["parent"] == "untrained"
    assert version.lineage["base"]["name"] == str(qwen)
    assert version.lineage["dataset"]["rows"] == 50
    assert {p.name for p in version.path.iterdir()} == {*registry_module._ALLOWED}
    verdict = version.gate()
    assert verdict is not None
    assert verdict["passed"]
    assert verdict["losses"]["talk"]["high"] < 0
    card = (version.path / "README.md").read_text("utf-8")
    assert "| talk | 4 |" in card
    assert (version.path / "loss.png").read_bytes().startswith(b"\x89PNG")
    # What a bot does that sees the pointer move.
    served = to_serve(settings.model, settings.persona, registry)
    assert served.version == version.name
    weights = Weights(settings.paths.var / "models", [])
    engine, tokenizer = await load_engine(served, settings.model, weights, lambda *_: None)
    try:
        from persona.card import read_persona_card

        builder = PromptBuilder(tokenizer, read_persona_card(settings.persona.folder), Budget())
        prompt = builder.build("竹好不好雪？")
        sampling = Sampling(max_new_tokens=8, temperature=0.0)
        assert [d async for d in engine.generate(prompt.ids, sampling)]
    finally:
        await engine.close()
    # The next one is held against this one; as good as it, it is published and not promoted.
    path = configured("transformers", epochs=3, rate=1e-2)
    await asyncio.sleep(1.1)  # a version is named by the second
    assert await asyncio.to_thread(run, path) == 2
    told = capsys.readouterr().err
    assert "are not surely likelier" in told
    assert "not promoted" in told
    first, second = registry.versions()
    assert second.lineage["parent"] == first.name
    # The earlier run is published, and of no more use.
    assert "removed what is of no more use: runs 1, versions 0" in told
    (left,) = settings.runs.glob("*-*")
    assert (left / "published").read_text("utf-8") == second.name
    assert registry.current() == first
    assert run(path, "list") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == ["*", second.name]
    assert await asyncio.to_thread(run, path, "promote", second.name) == 1
    assert "did not pass its gate" in capsys.readouterr().err
    forced = ("--force", "I read the samples")
    assert await asyncio.to_thread(run, path, "promote", second.name, *forced) == 0
    assert registry.current() == second
    assert run(path, "show") == 0
    assert "forced: I read the samples" in capsys.readouterr().out
    assert run(path, "rollback") == 0
    assert registry.current() == first
    assert run(path, "rollback") == 0
    assert registry.current() is None
    assert "the adapter that ships is served now" in capsys.readouterr().out
    assert run(path, "rollback") == 1


def test_killed_trainer_goes_on_and_ends_as_the_unbroken_one(
    configured: Configured,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()  # the precision of this machine, as in the other process
    path = configured(epochs=5, checkpoint_seconds=0.001, rate=1e-3)
    runs = tmp_path / "var" / "training"
    killed = subprocess.Popen(
        [sys.executable, "-m", "trainer", "--config", str(path), "train"],
        cwd=REPO,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not list(runs.glob("*-*/checkpoint/progress.json")):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    # A second trainer is refused meanwhile, and the killed one leaves no lock behind.
    assert run(path, "train") == 1
    assert "another trainer is at work" in capsys.readouterr().err
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    path = configured(epochs=5, rate=1e-3)
    (begun,) = runs.glob("*-*")
    assert not (begun / "trained").exists()
    assert run(path, "train", "--resume") == 0
    assert f"going on with {begun.name} after step " in capsys.readouterr().err
    assert (begun / "trained").exists()
    assert not (begun / "checkpoint").exists()
    assert run(path, "train") == 0
    (other,) = (folder for folder in runs.glob("*-*") if folder != begun)
    weights = "best/adapter_model.safetensors"
    assert (begun / weights).read_bytes() == (other / weights).read_bytes()
    ended, unbroken = Run(begun).metrics(), Run(other).metrics()
    assert [line["loss"] for line in ended] == [line["loss"] for line in unbroken]
    # Trained and not yet judged: to resume it is to have nothing left to train.
    assert run(path, "train", "--resume") == 0
    assert f"trained: {other / 'best'}" in capsys.readouterr().err


@pytest.mark.usefixtures("lenient")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_passed_is_not_served_before_somebody_read_it(
    configured: Configured, capsys: pytest.CaptureFixture[str]
) -> None:
    path = configured("transformers", epochs=3, rate=1e-2, promote=False)
    assert run(path) == 0
    told = " ".join(capsys.readouterr().err.split())
    registry = loop.registry(config.read(path, {}))
    (version,) = registry.versions()
    assert "samples.md" in told
    assert registry.current() is None
    assert run(path, "promote", version.name) == 0
    assert registry.current() == version

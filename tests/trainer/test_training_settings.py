"""[training]: the file is true, and a mistake is one line."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from data.config import SettingsError
from persona.weights import EMBEDDED, Base, NoSource, Weights, WeightsError
from trainer.config import RECIPES, TrainingSettings, read
from trainer.loop import training_base

CONFIG = Path(__file__).parents[2] / "config.toml"


def test_file_holds_every_setting_with_its_default() -> None:
    written = tomllib.loads(CONFIG.read_text("utf-8"))["training"]
    defaults = TrainingSettings().model_dump(mode="json", exclude_none=True)
    assert written == defaults
    assert list(written) == list(defaults)
    optional = [k for k, v in TrainingSettings().model_dump().items() if v is None]
    assert f"# {', '.join(optional)} " in CONFIG.read_text("utf-8")


def test_recipes_are_the_first_ones_and_the_measured_one() -> None:
    seed = RECIPES["seed"]
    assert (seed.rank, seed.alpha, seed.dropout) == (8, 32, 0.1)
    assert TrainingSettings().chosen() == RECIPES["daiyu"]
    assert TrainingSettings(recipe="seed").chosen() == seed


def test_single_values_override_the_recipes() -> None:
    chosen = TrainingSettings(epochs=7, rate=1e-3, rank=2).chosen()
    assert (chosen.epochs, chosen.rate, chosen.rank) == (7, 1e-3, 2)
    assert chosen.alpha == RECIPES["daiyu"].alpha


class Shelf(Weights):
    """Has the embedded base, and refuses any other for the reason given."""

    def __init__(self, refusal: WeightsError) -> None:
        self._refusal = refusal

    def base(self, name: str) -> Base:
        if name == EMBEDDED:
            return Base(name, Path("model.gguf"), "0")
        raise self._refusal


def test_without_a_hub_the_embedded_base_is_trained_on_and_said() -> None:
    told: list[str] = []
    settings = read(CONFIG, {})
    assert training_base(settings, Shelf(NoSource("no hub")), told.append).name == EMBEDDED
    assert len(told) == 1
    assert "no hub" in told[0]


def test_model_that_a_hub_does_not_have_trains_nothing_else() -> None:
    with pytest.raises(WeightsError, match="no such"):
        training_base(read(CONFIG, {}), Shelf(WeightsError("no such model")), pytest.fail)
    here = read(CONFIG, {"DAIYU_TRAINING__BASE": "./models/mine"})
    with pytest.raises(NoSource):
        training_base(here, Shelf(NoSource("no hub")), pytest.fail)


def test_environment_overrides_the_file() -> None:
    settings = read(CONFIG, {"DAIYU_TRAINING__BASE": "embedded", "DAIYU_PATHS__VAR": "/srv/x"})
    assert settings.training.base == "embedded"
    assert settings.runs == Path("/srv/x/training")


def test_sections_of_the_bot_are_left_alone() -> None:
    assert read(CONFIG, {"DAIYU_BOT__LANG": "en", "DAIYU_TELEGRAM__DRAIN": "3"}) == read(CONFIG, {})


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("rat = 1", ["[training] rat", "not a setting", "rate"]),
        ("rate = 2.0", ["[training] rate", "2.0", "less than or equal to 1"]),
        ("rate = 0", ["[training] rate", "greater than 0"]),
        ("epochs = 0", ["[training] epochs", "greater than or equal to 1"]),
        ("rank = 999", ["[training] rank", "less than or equal to 256"]),
        ("recipe = 'best'", ["[training] recipe", "'best'", "'daiyu' or 'seed'"]),
        ("keep = 2", ["[training] keep", "greater than or equal to 3"]),
        ("seed = -1", ["[training] seed", "greater than or equal to 0"]),
        ("seed = 99999999999", ["[training] seed", "less than 4294967296"]),
        ("pack_tokens = -5", ["[training] pack_tokens"]),
        ("checkpoint_seconds = 0", ["[training] checkpoint_seconds", "greater than 0"]),
    ],
)
def test_mistake_is_one_line_that_names_it(tmp_path: Path, content: str, parts: list[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"[training]\n{content}\n")
    with pytest.raises(SettingsError) as mistake:
        read(path, {})
    line = str(mistake.value)
    assert "\n" not in line
    assert all(part in line for part in [*parts, str(path)]), line

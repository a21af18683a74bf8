"""The adapter's own arithmetic equals the libraries' it stands in for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from persona.gguf import Adapter
from persona.registry import ADAPTER_FILE, CONFIG_FILE
from trainer.config import TARGETS, Recipe
from trainer.lora import fuse
from trainer.model import _HeadLoss, adapt

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # peft of transformers
CPU = torch.device("cpu")


def peft_model(folder: Path, dtype: torch.dtype, dropout: float = 0.0) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=dropout,
        target_modules=list(TARGETS),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
    torch.manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(std=0.1)
    return model


def run(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    ids = torch.arange(40).reshape(2, 20) * 7 % 400
    logits = model(input_ids=ids).logits
    logits.float().log_softmax(-1)[..., 5].sum().backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach(), found


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_fused_layers_compute_what_pefts_own_do(
    qwen: Path, dtype: torch.dtype, near: float
) -> None:
    theirs, their_gradients = run(peft_model(qwen, dtype))
    model = peft_model(qwen, dtype)
    assert fuse(model) == 2 * len(TARGETS)
    ours, our_gradients = run(model)
    assert ours.dtype == dtype
    assert our_gradients.keys() == their_gradients.keys()
    assert all("lora_" in name for name in our_gradients)

    def apart(a: Tensor, b: Tensor) -> float:
        return float((a.float() - b.float()).norm() / b.float().norm())

    assert apart(ours, theirs) < near
    for name, gradient in our_gradients.items():
        assert apart(gradient, their_gradients[name]) < near, name


def test_layers_with_dropout_are_left_alone(qwen: Path) -> None:
    assert fuse(peft_model(qwen, torch.float32, dropout=0.1)) == 0


def test_head_loss_is_cross_entropy() -> None:
    torch.manual_seed(0)
    head = torch.randn(50, 16)
    targets = torch.randint(0, 50, (300,))  # more than are made at a time
    weights = torch.rand(300)
    ours = torch.randn(300, 16, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    losses = _HeadLoss.apply(ours, head, targets)
    expected = torch.nn.functional.cross_entropy(theirs @ head.T, targets, reduction="none")
    torch.testing.assert_close(losses, expected)
    (losses * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_head_loss_is_finite_for_huge_logits() -> None:
    hidden = torch.full((2, 4), 1e4, requires_grad=True)
    losses = _HeadLoss.apply(hidden, torch.eye(4) * 1e3, torch.tensor([0, 1]))
    losses.sum().backward()
    assert hidden.grad is not None
    assert bool(torch.isfinite(losses).all() and torch.isfinite(hidden.grad).all())


def test_saved_adapter_is_one_that_peft_loads_and_ours_merges(
    qwen: Path, recipe: Recipe, tmp_path: Path
) -> None:
    adapted = adapt(qwen, recipe, seed=0, device=CPU)
    for parameter in adapted.parameters:
        parameter.data.normal_(std=0.1)
    adapted.save(tmp_path / "saved", "Qwen/Qwen2.5-0.5B-Instruct")
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {ADAPTER_FILE, CONFIG_FILE}
    base = AutoModelForCausalLM.from_pretrained(qwen, dtype=torch.float32, local_files_only=True)
    loaded = PeftModel.from_pretrained(base, tmp_path / "saved", local_files_only=True)
    ids = torch.arange(30)[None] * 11 % 400
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(input_ids=ids).logits, adapted.model(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )
    Adapter(tmp_path / "saved")


def test_adapters_config_names_the_base_and_no_path_of_the_machine(
    qwen: Path, recipe: Recipe, tmp_path: Path
) -> None:
    adapted = adapt(qwen, recipe, seed=0, device=CPU)
    adapted.save(tmp_path / "saved", "Qwen/Qwen2.5-0.5B-Instruct")
    text = (tmp_path / "saved" / CONFIG_FILE).read_text("utf-8")
    config = json.loads(text)
    assert config["base_model_name_or_path"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert config["target_modules"] == sorted(TARGETS)
    assert (config["r"], config["lora_alpha"]) == (recipe.rank, recipe.alpha)
    for path in (qwen, tmp_path, Path.home(), Path.cwd()):
        assert str(path) not in text


def test_seed_decides_the_adapters_first_values(qwen: Path, recipe: Recipe) -> None:
    one, same, other = (adapt(qwen, recipe, seed, CPU).masters for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_adapter_learns_in_float32_and_computes_in_the_bases_precision(
    qwen: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.model.precision", lambda _: torch.bfloat16)
    adapted = adapt(qwen, recipe, seed=0, device=CPU)
    assert {p.dtype for p in adapted.model.parameters()} == {torch.bfloat16}
    assert {m.dtype for m in adapted.masters} == {torch.float32}
    assert {id(p) for p in adapted.parameters} == {
        id(p) for n, p in adapted.model.named_parameters() if "lora_" in n
    }

"""Training of the embedded models: deterministic, cached, one trainer at a time; shipped recipes reach their goal."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.errors import refuses
from vitq.config import DataConfig, ModelConfig, RunConfig
from vitq.data import eval_set
from vitq.errors import ModelError
from vitq.models import train
from vitq.models.load import identify, load_model
from vitq.progress import Progress

DIGITS = DataConfig(name="digits", dataset="digits", calib_split="calib", eval_split="test", num_classes=10)


def small(**changes: Any) -> ModelConfig:
    """One epoch of a very small ViT."""
    raw: dict[str, Any] = {
        "name": "vit_digits",
        "kwargs": {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2},
        "pretrained": False,
        "train": {"epochs": 1, "batch_size": 128, **changes},
        "input_size": 32,
        "crop_pct": 1.0,
    }
    return ModelConfig(**raw)


def test_the_seed_decides_and_global_state_is_left_alone(tmp_path: Path) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = load_file(train.trained(small(), DIGITS, tmp_path / "a", Progress()))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(99)
    again = load_file(train.trained(small(), DIGITS, tmp_path / "b", Progress()))
    other = load_file(train.trained(small(seed=1), DIGITS, tmp_path / "a", Progress()))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    notes: list[str] = []

    class Listener(Progress):
        def advance(self, units: int = 1, note: str = "") -> None:
            if note:
                notes.append(note)

    train.trained(small(epochs=8, lr=3e-3, batch_size=32), DIGITS, tmp_path, Listener())
    losses = [float(note.rsplit(" ", 1)[1]) for note in notes]
    assert len(losses) == 8
    assert losses[-1] < 0.7 * losses[0]


def test_the_second_use_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = train.trained(small(), DIGITS, tmp_path, Progress())
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("trained again"))
    assert train.trained(small(), DIGITS, tmp_path, Progress()) == path
    moved = dataclasses.replace(DIGITS, calib_split="train", eval_limit=5, workers=0)
    renamed = dataclasses.replace(small(), fp_top1=99.0, weights="x")
    assert train.trained(renamed, moved, tmp_path, Progress()) == path


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (small(lr=2e-3), DIGITS),
        (dataclasses.replace(small(), mean=(0.0, 0.0, 0.0)), DIGITS),
        (dataclasses.replace(small(), kwargs={**small().kwargs, "depth": 2}), DIGITS),
        (small(), dataclasses.replace(DIGITS, std=(0.5, 0.5, 0.5))),
    ],
)
def test_what_changes_the_weights_changes_the_file(tmp_path: Path, model: ModelConfig, data: DataConfig) -> None:
    assert train.trained(model, data, tmp_path, Progress()) != train.trained(small(), DIGITS, tmp_path, Progress())


def test_two_processes_at_once_train_once(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.models import test_train
from vitq.models import train
from vitq.progress import Progress
real = train.fit
def fit(*args):
    print("trained", flush=True)
    return real(*args)
train.fit = fit
train.trained(test_train.small(), test_train.DIGITS, {str(tmp_path)!r}, Progress())
"""
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(outputs) == ["", "trained\n"]
    assert len(list((tmp_path / "models").glob("*.safetensors"))) == 1


def test_stopped_training_leaves_no_weights(tmp_path: Path) -> None:
    class Stop(Progress):
        def advance(self, units: int = 1, note: str = "") -> None:
            if note:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.trained(small(), DIGITS, tmp_path, Stop())
    assert not list((tmp_path / "models").glob("*.safetensors"))
    assert train.trained(small(), DIGITS, tmp_path, Progress()).exists()


def test_no_recipe(tmp_path: Path) -> None:
    with refuses(ModelError, key="model.train"):
        train.trained(dataclasses.replace(small(), train=None), DIGITS, tmp_path, Progress())


def test_identity_names_the_recipe() -> None:
    assert identify(small()).weights == f"trained-by-recipe-{train.RECIPE}"


def test_the_trained_model_is_loaded(tmp_path: Path) -> None:
    network = load_model(small(), DIGITS, tmp_path, Progress())
    state = load_file(train.trained(small(), DIGITS, tmp_path, Progress()))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not network.training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_digits", "swin_digits"])
def test_the_shipped_recipe_reaches_97_percent(repo: Path, tmp_path: Path, name: str) -> None:
    raw = {
        "model": yaml.safe_load((repo / "conf" / "model" / f"{name}.yaml").read_text()),
        "data": yaml.safe_load((repo / "conf" / "data" / "digits.yaml").read_text()),
        "method": {"name": "m"},
        "cache_dir": str(tmp_path),
    }
    config, problems = RunConfig.parse(raw)
    assert config is not None, problems
    start = time.process_time()
    network = load_model(config.model, config.data, tmp_path, Progress())
    assert time.process_time() - start < 180  # 90 s on 2 free cores; a busy machine counts its waiting as work
    images = eval_set(config, Progress())
    with torch.no_grad():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in images.batches(64, "cpu"))
    assert right / len(images) >= 0.97

"""Training of the embedded models: deterministic, cached, one trainer at a time; shipped recipes reach their goal."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.errors import refuses
from tests.forked import Forked
from vitq.config import DataConfig, ModelConfig, RunConfig
from vitq.data import eval_set
from vitq.errors import ModelError
from vitq.models import train
from vitq.models.load import identify, load_model
from vitq.planning import compose
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
        (small(shift=0.25), DIGITS),
        (dataclasses.replace(small(), mean=(0.0, 0.0, 0.0)), DIGITS),
        (dataclasses.replace(small(), kwargs={**small().kwargs, "depth": 2}), DIGITS),
        (small(), dataclasses.replace(DIGITS, std=(0.5, 0.5, 0.5))),
    ],
)
def test_what_changes_the_weights_changes_the_file(tmp_path: Path, model: ModelConfig, data: DataConfig) -> None:
    assert train.trained(model, data, tmp_path, Progress()) != train.trained(small(), DIGITS, tmp_path, Progress())


def train_and_say_so(folder: Path) -> int:
    real = train.fit

    def fit(*args: Any) -> Any:
        print("trained")
        return real(*args)

    pytest.MonkeyPatch().setattr(train, "fit", fit)
    train.trained(small(), DIGITS, folder, Progress())
    return 0


def test_two_processes_at_once_train_once(tmp_path: Path) -> None:
    both = [Forked(tmp_path, train_and_say_so, tmp_path) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], [process.err for process in both]
    assert sorted(process.out for process in both) == ["", "trained\n"]
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
def test_the_shipped_recipe_reaches_97_percent(name: str) -> None:
    """With the weights of every other test that needs them, and of `make sweep`: trained where the cache has none."""
    file, roots = compose.root_config()
    (cell,) = compose.expand(compose.load(file, roots, [f"model={name}"]))
    config, problems = RunConfig.parse(cell.raw)
    assert config is not None, problems
    network = load_model(config.model, config.data, config.cache_dir, Progress())
    images = eval_set(config, Progress())
    with torch.no_grad():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in images.batches(64, "cpu"))
    assert right / len(images) >= 0.97

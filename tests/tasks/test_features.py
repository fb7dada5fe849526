"""Backbones without a head: what their features are judged by, from the plan to the report."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.engine.test_network_checks import config, refused
from tests.errors import command_refuses, is_about, refuses
from tests.job.planner import KWARGS, Planner
from tests.tiny import tiny
from vitq.config import ModelConfig
from vitq.data import ImageSet
from vitq.engine.network_checks import network_problems
from vitq.errors import ModelError
from vitq.job.requantize import requantize
from vitq.models.load import check_weights, load_model
from vitq.progress import Progress
from vitq.report.accuracy_table import matrices
from vitq.report.numbers import figures
from vitq.report.paired_test import paired
from vitq.report.runs_table import table
from vitq.store import Run
from vitq.store.metrics import FeatureMetrics
from vitq.store.result import Result
from vitq.store.sweeps import SweepRecord
from vitq.tasks.features import NEIGHBOURS, TEMPERATURE, Features, FeatureSets, nearest_class


def by_hand(features: np.ndarray, known: np.ndarray, labels: np.ndarray) -> list[int]:
    """k-NN with the votes written out, float64."""
    found = []
    for one in features:
        cosines = [float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)) for other in known]
        votes: dict[int, float] = {}
        for index in sorted(range(len(known)), key=lambda i: -cosines[i])[:NEIGHBOURS]:
            votes[int(labels[index])] = votes.get(int(labels[index]), 0) + math.exp(cosines[index] / TEMPERATURE)
        found.append(max(votes, key=lambda label: votes[label]))
    return found


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 6))
def test_classes_by_neighbours(seed: int, known: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    features, others = rng.normal(size=(5, 8)), rng.normal(size=(known, 8))
    labels = rng.integers(0, classes, known)
    found = nearest_class(torch.from_numpy(features), torch.from_numpy(others), torch.from_numpy(labels))
    assert found.tolist() == by_hand(features, others, labels)


def _compared(labels: list[int], known: list[int]) -> FeatureSets:
    def images(of: list[int]) -> ImageSet:
        pixels = np.arange(len(of), dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=1)
        return ImageSet(pixels, np.array(of), (0.0,) * 3, (1.0,) * 3, f"{of}")

    return FeatureSets(images(labels), images(known))


def test_images_of_classes_without_neighbours_do_not_count() -> None:
    images, task = _compared([0, 1, 7], [0, 0, 1]), Features()
    full = {"features": torch.tensor([[1.0, 0], [0, 1], [1, 1], [1, 0], [2, 0.1], [0, 3]])}
    metrics = task.metrics(full, full, images)
    assert (metrics.n_eval, metrics.n_knn, metrics.n_neighbours) == (3, 2, 3)
    assert metrics.cosine == pytest.approx(100)
    assert (metrics.relative_error, metrics.fp_knn_top1, metrics.drop_knn, metrics.knn_agreement) == (0, 100, 0, 100)
    kept = task.predictions(full, images)
    assert (kept["label"].tolist(), kept["correct"].tolist()) == ([0, 1], [True, True])
    turned = {"features": full["features"].flip(1)}  # every feature is moved, and neighbours with them
    metrics = task.metrics(turned, full, images)
    assert metrics.cosine == pytest.approx(100 / 3)
    assert metrics.relative_error == pytest.approx(100 * (2 * math.sqrt(2)) / 3)
    assert metrics.knn_top1 == 100
    assert task.differs(kept, kept) is None
    longer = {"features": full["features"] * 1.01}
    assert task.differs(task.predictions(longer, images), kept) is not None
    none = task.metrics(full, full, _compared([7, 8, 9], [0, 0, 1]))
    assert (none.knn_top1, none.drop_knn, none.n_knn) == (None, None, 0)
    with refuses(ValueError, "features", 1):
        task.join([{"features": torch.tensor([[math.nan, 0.0]])}], images, "evaluate")


def test_the_sets_stand_behind_each_other() -> None:
    images = _compared([3, 4], [5])
    assert images.labels.tolist() == [3, 4, 5]
    assert len(images) == 3
    batches = list(images.batches(2, "cpu"))
    assert [labels.tolist() for _, labels in batches] == [[3, 4], [5]]
    taken = images.take([2, 0])
    assert taken.labels.tolist() == [5, 3]
    assert np.array_equal(taken.images, np.concatenate([images.known.images, images.scored.images[:1]]))


def _plan(planner: Planner, recipe: str, bits: int) -> Any:
    model = {
        "name": "vit_tiny_patch16_224",
        "kwargs": {**KWARGS, "num_classes": 0},
        "checkpoint": str(planner.checkpoint),  # it has a head
        "input_size": 32,
        "crop_pct": 1.0,
    }
    return planner.plan(recipe, task="features", model=model, bits={"weight": bits, "activation": bits})


def test_a_run_from_plan_to_report(planner: Planner) -> None:
    dirs = [_plan(planner, "fp32", 8), _plan(planner, "repq_vit", 8), _plan(planner, "repq_vit", 3)]
    full, eight, three = [planner.execute(run_dir).metrics for run_dir in dirs]
    assert {type(metrics) for metrics in (full, eight, three)} == {FeatureMetrics}
    assert (full.cosine, full.relative_error, full.drop_knn) == (pytest.approx(100), 0, 0)
    assert 99 < eight.cosine < 100
    assert three.cosine < eight.cosine
    assert three.relative_error > eight.relative_error > 0
    assert eight.fp_knn_top1 == three.fp_knn_top1 == full.knn_top1, "neighbours do not depend on what calibrates"
    assert (eight.n_eval, eight.n_knn, eight.n_neighbours) == (596, 596, 602)
    for run_dir in dirs:
        result = run_dir.read_result()
        assert isinstance(result, Result)
        assert isinstance(result.metrics, FeatureMetrics)
        assert "top1" not in result.model_dump(mode="json")["metrics"]
        assert result.cost is not None
    assert figures(eight.model_dump()).startswith(f"feature cosine {eight.cosine:.2f} %")
    requantize(dirs[1], Run(dirs[1]).config, Progress())  # raises where it is another model
    store = planner.store
    store.write_sweep(SweepRecord(name="s", description="", signatures=[d.signature for d in dirs]))
    df = table(store, "s")
    shown = {matrix.score: matrix for matrix in matrices(df)}
    assert set(shown) == {"feature cosine", "k-NN top-1"}
    assert shown["feature cosine"].fp_top1 == pytest.approx(100)
    cells = dict(zip(shown["k-NN top-1"].bits, shown["k-NN top-1"].rows[0].cells, strict=True))
    assert cells["W3A3"] is not None
    assert cells["W3A3"].top1 == three.knn_top1
    assert set(paired(store, df, "fp32")["n"]) == {596}


@pytest.mark.parametrize(
    ("overrides", "key", "value", "valid"),
    [
        (["task=features", "+model.kwargs.num_classes=10"], "model.kwargs.num_classes", 10, [0]),
        (["+model.kwargs.num_classes=0"], "model.kwargs.num_classes", 0, [10]),
        (["task=features", "bits.scope=backbone"], "bits.scope", "backbone", ["all"]),
        (["task=features", "method=mixed_precision"], "method.steps.allocate.do", "allocate", ["calibrate"]),
        (["task=features", "method=brecq"], "method.steps.rounding.loss", "fisher_diag", ["mse"]),
        (["task=features", "probe=hessian"], "probe", "hessian", []),
    ],
)
def test_what_the_plan_refuses(overrides: list[str], key: str, value: Any, valid: Any) -> None:
    assert any(is_about(problem, key, value, valid) for problem in refused(*overrides))


def test_a_backbone_of_any_tag() -> None:
    """The head of a classifier is left out; weights without one are no classifier's."""
    tagged = ["model=timm", "data=imagenet", "model.name=deit_tiny_patch16_224.fb_in1k"]
    assert network_problems(config(*tagged, "task=features")) == []
    backbone = [*tagged[:2], "model.name=vit_small_patch14_dinov2.lvd142m", "model.kwargs={img_size: 224}"]
    assert network_problems(config(*backbone, "task=features")) == []
    assert config(*backbone, "task=features").model.input_size == 224
    (problem,) = network_problems(config(*backbone))
    assert is_about(problem, "task", "classification", ["features"])


def test_embedded_backbones_are_the_trained_classifiers(tmp_path: Path) -> None:
    from tests.models.test_train import DIGITS, small

    headless = dataclasses.replace(small(), kwargs={**small().kwargs, "num_classes": 0})
    body = load_model(headless, DIGITS, tmp_path, Progress())
    whole = load_model(small(), DIGITS, tmp_path, Progress())
    x = torch.randn(2, 3, 32, 32)
    assert len(list((tmp_path / "models").glob("*.safetensors"))) == 1
    assert torch.equal(body(x), whole.forward_head(whole.forward_features(x), pre_logits=True))  # type: ignore[operator]


def test_a_head_in_a_file_is_said_and_other_leftovers_are_refused(tmp_path: Path) -> None:
    state = tiny("vit", num_classes=5).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    from tests.models.test_load import DATA

    model = ModelConfig(
        "vit_tiny_patch16_224",
        {**KWARGS, "num_classes": 0},
        checkpoint=str(tmp_path / "w.safetensors"),
        input_size=32,
    )
    network = load_model(model, DATA, tmp_path, Progress())
    (line,) = check_weights(network, model, DATA)
    assert "head.bias, head.weight" in line
    save_file({**state, "decoder.weight": torch.zeros(1)}, tmp_path / "v.safetensors")
    with refuses(ModelError, key="model.checkpoint", value=["1 unexpected: decoder.weight"]):
        load_model(dataclasses.replace(model, checkpoint=str(tmp_path / "v.safetensors")), DATA, tmp_path, Progress())


def test_tuning_needs_class_probabilities() -> None:
    command_refuses(["tune", "qdrop", "task=features", "bits=w4a4"], "task", "features", ["classification"])

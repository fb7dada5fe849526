"""The model of a finished run: kept, or made again and checked against the record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.errors import command_refuses, is_about, refuses
from tests.job.planner import Planner
from vitq import cli, data
from vitq.deploy.packed.packed import load_packed
from vitq.engine.recipe_checks import problems
from vitq.errors import DeployError, StoreError, VitqError
from vitq.job.packed_run import packed_run
from vitq.progress import Progress


def test_kept_or_repeated_the_model_is_the_same(planner: Planner, capsys: Any) -> None:
    kept = planner.plan(keep_model=True)
    planner.execute(kept)
    assert kept.model_path.exists()
    bytes_kept = kept.model_path.read_bytes()
    kept.model_path.unlink()
    assert cli.main(["export", kept.signature[:6], "--runs-dir", str(planner.store.root), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert kept.model_path.read_bytes() == bytes_kept
    assert printed["bytes"] == len(bytes_kept)
    assert printed["float32_bytes"] == 2 * printed["float16_bytes"]
    assert printed["float32_ratio"] == pytest.approx(printed["float32_bytes"] / printed["bytes"], abs=1e-3)
    words = ["export", kept.signature, "--runs-dir", str(planner.store.root), "--compress"]
    assert cli.main([*words, "--json"]) == 0
    small = json.loads(capsys.readouterr().out)
    assert kept.model_path.read_bytes() == bytes_kept
    path = Path(small["path"])
    assert path == kept.deploy_dir / "model.safetensors"
    assert load_packed(path).signature == kept.signature
    assert small["forms"] == printed["forms"]
    assert small["forms"]["compressed"]["bytes"] == small["bytes"] == path.stat().st_size < len(bytes_kept)
    assert small["forms"]["plain"]["bytes"] == len(bytes_kept)
    command_refuses([*words, "--format", "onnx"], key="--compress")
    command_refuses([*words[:-1], "--int8-weights"], key="--int8-weights")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_format_is_written(planner: Planner, tmp_path: Path, capsys: Any) -> None:
    run_dir = planner.plan(keep_model=True)
    planner.execute(run_dir)
    words = ["export", run_dir.signature, "--runs-dir", str(planner.store.root)]
    assert cli.main([*words, "--format", "openvino", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    path = Path(printed["path"])
    assert path == run_dir.deploy_dir / "model.xml"
    assert printed["bytes"] == path.stat().st_size + path.with_suffix(".bin").stat().st_size
    # Two blocks: four layers and one matmul of attention each, and the head; log-type probabilities, the image.
    assert printed["int8_products"] == 2 * 5 + 1
    assert set(printed["float_products"]) == {"patch_embed.proj", *(f"blocks.{i}.attn.context" for i in range(2))}
    assert cli.main([*words, "--output", str(tmp_path / "copy.safetensors")]) == 0
    assert (tmp_path / "copy.safetensors").read_bytes() == run_dir.model_path.read_bytes()


def test_the_packed_model_predicts_what_the_record_says(planner: Planner) -> None:
    run_dir = planner.plan(keep_model=True)
    planner.execute(run_dir)
    packed = load_packed(run_dir.model_path)
    assert packed.signature == run_dir.signature
    config, _ = packed.config.parse(run_dir.read_config())
    assert config is not None
    batch, _ = next(data.eval_set(config, Progress()).batches(config.data.batch_size, torch.device("cpu")))
    with torch.no_grad():
        top = packed.model(batch).topk(5).values
    assert torch.equal(top, torch.from_numpy(run_dir.read_predictions()["topk_logit"][: len(batch)]))


def test_a_model_that_predicts_otherwise_is_not_exported(planner: Planner) -> None:
    run_dir = planner.plan()
    planner.execute(run_dir)
    predictions = run_dir.read_predictions()
    predictions["topk_index"][3, 0] += 1
    run_dir.write_predictions(predictions)
    with refuses(VitqError, key="predictions"):
        packed_run(run_dir, Progress())
    assert not run_dir.model_path.exists()


def test_an_unfinished_run_and_one_that_quantizes_nothing(planner: Planner) -> None:
    with refuses(StoreError, key="result"):
        packed_run(planner.plan(), Progress())
    plain = planner.plan("fp32", keep_model=True)
    planner.execute(plain)
    with refuses(DeployError, key="method", value="fp32"):
        packed_run(plain, Progress())


def test_keep_model_is_volatile_and_checked_in_the_plan(planner: Planner) -> None:
    assert planner.plan().signature == planner.plan(keep_model=True).signature
    raw = planner.plan("minmax", keep_model=True).read_config()
    raw["method"]["steps"]["predict"] = {"do": "predict_scales"}
    from vitq.config import RunConfig

    config, _ = RunConfig.parse(raw)
    assert config is not None
    assert any(is_about(problem, "keep_model", True, [False]) for problem in problems(config))

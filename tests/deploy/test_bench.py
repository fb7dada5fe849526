"""`vitq bench`: the figures belong together, and the models are timed in turns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.errors import command_refuses
from tests.job.planner import Planner
from vitq import cli
from vitq.deploy.bench import Timing, race
from vitq.machine import int8_products_are_exact

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's exporter warns of itself


def test_models_take_turns_after_warming_up() -> None:
    calls: list[str] = []

    def model(name: str) -> Any:
        return lambda images: calls.append(f"{name}{len(images)}")

    timings = race({"a": model("a"), "b": model("b")}, np.zeros((4, 1), np.float32), repeats=3)
    assert calls == ["a4", "a4", "b4", "b4", *["a4", "b4"] * 3]
    assert {name: timing.batch for name, timing in timings.items()} == {"a": 4, "b": 4}


def test_median_quartiles_and_throughput() -> None:
    timing = Timing.of(8, [0.01, 0.02, 0.03, 0.04, 1.0])
    assert (timing.milliseconds, timing.low, timing.high) == pytest.approx((30, 20, 40))
    assert timing.images_per_second == pytest.approx(8 / 0.03)


@pytest.mark.slow
@pytest.mark.xdist_group("bench")  # where the exported models are kept
@pytest.mark.usefixtures("exports_once")
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_bench_of_a_run(tmp_path: Path, capsys: Any, runtime: str) -> None:
    planner = Planner(tmp_path)
    run_dir = planner.plan("minmax", bits={"weight": 8, "activation": 8}, keep_model=True)
    result = planner.execute(run_dir)
    words = ["bench", run_dir.signature, "--runs-dir", str(planner.store.root), "--runtime", runtime]
    assert cli.main([*words, "--threads", "1", "--repeats", "2", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    forms = done["forms"]
    assert list(forms) == ["float32", *(["bf16"] if runtime == "openvino" else []), "integer"] + (
        ["integer_bf16"] if runtime == "openvino" else []
    )
    fast, base = (forms[name]["batch32"]["images_per_second"] for name in ("integer", "float32"))
    assert done["speedup"] == pytest.approx(fast / base)
    assert done["images"] == result.metrics.n_eval
    assert forms["float32"]["top1"] == pytest.approx(result.metrics.fp_top1, abs=0.2)
    if int8_products_are_exact():
        assert forms["integer"]["top1"] == pytest.approx(result.metrics.top1, abs=0.4)
        assert forms["integer"]["agreement"] > 99


def test_bad_arguments_start_nothing(tmp_path: Path) -> None:
    planner = Planner(tmp_path)
    run_dir = planner.plan("minmax")
    words = ["bench", run_dir.signature, "--runs-dir", str(planner.store.root)]
    command_refuses([*words, "--threads", "0"], key="--threads", value=0)
    command_refuses(words, key="result", value=run_dir.signature)

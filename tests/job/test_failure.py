"""What is recorded of a run that ends without a result, and what the next attempt makes of it."""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file

from tests.errors import refuses
from tests.forked import Forked
from tests.job.planner import CONF, Planner
from tests.tiny import tiny
from vitq.errors import ConfigError, brief
from vitq.job import measure
from vitq.job.worker import main


def test_a_failure_is_recorded_and_raised(planner: Planner) -> None:
    broken = tiny("vit", num_classes=10).state_dict()
    broken["blocks.0.norm1.bias"][0] = float("nan")
    save_file(broken, planner.checkpoint)
    run_dir = planner.plan()
    with refuses(ValueError, key="logits") as raised:
        planner.execute(run_dir)
    status = run_dir.read_status()
    assert status is not None
    assert status.state == "failed"
    assert status.error == brief(raised.value)
    assert "Traceback" in str(status.traceback)
    assert "Traceback" in run_dir.log_path.read_text()
    assert not run_dir.is_done()
    assert not run_dir.result_path.exists()
    # Another try counts.
    with pytest.raises(ValueError):
        planner.execute(run_dir)
    status = run_dir.read_status()
    assert status is not None
    assert status.attempt == 2


def test_an_edited_config_is_refused(planner: Planner) -> None:
    run_dir = planner.plan()
    config = run_dir.read_config()
    config["bits"]["weight"] = 8
    run_dir.write_config(config)
    with refuses(ConfigError, key="signature", valid=[run_dir.signature]):
        planner.execute(run_dir)


def test_the_module_records_a_config_that_it_refuses(planner: Planner) -> None:
    run_dir = planner.plan()
    run_dir.write_config(run_dir.read_config() | {"seed": 1})
    assert main(["--runs-dir", str(planner.store.root), run_dir.signature]) == 1
    status = run_dir.read_status()
    assert status is not None
    with refuses(ConfigError, key="signature", valid=[run_dir.signature]) as raised:
        planner.execute(run_dir)
    assert (status.state, status.error) == ("failed", brief(raised.value))


def test_missing_cuda_is_an_error_and_never_the_cpu(planner: Planner) -> None:
    run_dir = planner.plan(device="cuda:7")
    with refuses(ConfigError, key="device", value="cuda:7", valid=["auto", "cpu"]):
        planner.execute(run_dir)


def test_a_result_says_that_an_earlier_attempt_began_it(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seconds are of the last attempt, which found the blocks of the first one finished."""
    method = yaml.safe_load((CONF / "method" / "ias_vit.yaml").read_text()) | {"iterations": 1}
    run_dir = planner.plan(method=method, calib={"size": 8})

    class NodeLostError(Exception):
        pass

    def lost(*args: Any) -> None:
        raise NodeLostError

    with monkeypatch.context() as patch:
        patch.setattr(measure.evaluate, "outputs", lost)
        with pytest.raises(NodeLostError):
            planner.execute(run_dir)
    went_on = planner.execute(run_dir)
    run_dir.result_path.unlink()
    assert [result.timings.resumed for result in (went_on, planner.execute(run_dir))] == [True, False]


def test_a_killed_run_shows_no_result_and_repeats_to_the_same_one(planner: Planner, tmp_path: Path) -> None:
    """SIGKILL at four moments: the reader sees no result or the whole one, and the next attempt ends the same."""
    undisturbed = planner.plan()
    expected = planner.execute(undisturbed).metrics
    for path in undisturbed.path.iterdir():
        if path != undisturbed.config_path:
            path.unlink()
    words = ["--runs-dir", str(planner.store.root), undisturbed.signature]
    for delay in (0.0, 0.1, 0.3, 0.6):
        process = Forked(tmp_path, main, words)
        process.wait_until(undisturbed.status_path.exists)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL)
        if undisturbed.result_path.exists():
            record = json.loads(undisturbed.result_path.read_text())
            assert record["metrics"]["top1"] == expected.top1
            assert undisturbed.sites_path.exists()
            assert undisturbed.predictions_path.exists()
            break
        undisturbed.status_path.unlink(missing_ok=True)
    if not undisturbed.is_done():
        planner.execute(undisturbed)
    result = undisturbed.read_result()
    assert result is not None
    assert result.metrics == expected
    assert math.isfinite(expected.top1)

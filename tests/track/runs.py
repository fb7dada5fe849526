"""Runs to mirror, and what W&B's own reader, `wandb leet inspect`, finds of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from vitq import track
from vitq.config import RunConfig, signature
from vitq.job import provenance
from vitq.store import RunDir, Store
from vitq.store.record import utc_now
from vitq.store.result import Result

KEY = "0123456789abcdef0123456789abcdef01234567"
KINDS = {"default": {"quantizer": "uniform"}}
STEPS = {"weights": {"do": "calibrate", "sites": "weights"}, "activations": {"do": "calibrate", "sites": "activations"}}


def make_config(tmp_path: Path, **changes: Any) -> RunConfig:
    raw: dict[str, Any] = {
        "model": {"name": "deit_tiny_patch16_224.fb_in1k", "checkpoint": str(tmp_path / "secret place" / "w.pth")},
        "data": {"name": "imagenet", "root": "/somewhere/private"},
        "method": {"name": "minmax", "kinds": KINDS, "steps": STEPS},
        "bits": {"weight": 4, "activation": 4},
        "tracker": {"name": "wandb"},
        "runs_dir": str(tmp_path / "runs of 'mine'"),
    }
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) and key in raw else value
    config, problems = RunConfig.parse(raw)
    assert config is not None, problems
    return config


def make_result(config: RunConfig, top1: float = 71.5) -> Result:
    return Result.model_validate(
        {
            "signature": signature(config),
            "config": config.to_dict(),
            "metrics": {
                "top1": top1,
                "top5": 90.25,
                "nll": float("nan"),
                "fp_top1": 72.0,
                "drop": 0.5,
                "agreement": 95.0,
                "kl": None,
                "n_eval": 650,
            },
            "size": {"mean_weight_bits": 4.0, "mean_activation_bits": 4.5, "fp_bytes": 100, "quantized_bytes": 20},
            "timings": {"total": 3.5, "stages": {"load": 1.5, "steps.weights": 2.0}},
            "memory": {"peak_rss_bytes": 10**9, "peak_cuda_bytes": None},
            "provenance": provenance.provenance(utc_now(), attempt=2).model_dump(),
        }
    )


SITES = pd.DataFrame(
    {
        "site": ["patch_embed.proj.weight", "blocks.0.attn.qkv.input"],
        "kind": ["weight", "post_norm"],
        "shape": ["192x768", "197x192"],
        "elements": [147456, 37824],
        "quantizer": ["uniform", "uniform"],
        "granularity": ["channel", "tensor"],
        "bits": [4, 32],
        "mse": [0.25, 0.0],
        "sqnr_db": [21.5, float("inf")],
    }
)


def execute(
    config: RunConfig, group: str | None = "demo", fail: BaseException | None = None, top1: float = 71.5
) -> RunDir:
    """What a job does with its tracker: the record first, then the mirror."""
    run_dir = Store(config.runs_dir).run(signature(config))
    with track.make(config.tracker).run(config, signature(config), group, run_dir) as tracked:
        if fail is not None:
            raise fail
        run_dir.write_result(make_result(config, top1))
        tracked.result(make_result(config, top1), SITES)
    return run_dir


def leet(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def offline_runs(config: RunConfig) -> list[Path]:
    return sorted(track.folder(config).glob("offline-run-*"))


def read_back(config: RunConfig) -> dict[str, Any]:
    """The summary object of the config's one offline run."""
    (folder,) = (path for path in offline_runs(config) if path.name.endswith(signature(config)))
    summary: dict[str, Any] = json.loads(leet(folder, "--summary"))
    return summary


def run_record(config: RunConfig) -> dict[str, Any]:
    """What the transaction log says about the run itself: group and job type are in no summary."""
    (folder,) = offline_runs(config)
    (record,) = (r["run"] for r in map(json.loads, leet(folder).splitlines()) if r["type"] == "run")
    return dict(record)


def log_of(run_dir: RunDir) -> str:
    return run_dir.log_path.read_text() if run_dir.log_path.exists() else ""


def cores() -> list[psutil.Process]:
    """W&B's service processes that this process started; at least one."""
    found = [p for p in psutil.Process().children(recursive=True) if "wandb-core" in p.name()]
    assert found
    return found


def kill_service() -> None:
    """Kill the wandb-core process of this process, as an out-of-memory killer might."""
    for core in cores():
        core.kill()
        core.wait()


def records(folder: Path) -> list[dict[str, Any]]:
    """Every record of a run's transaction log."""
    return [json.loads(line) for line in leet(folder).splitlines()]


def summary_in(folder: Path) -> dict[str, Any]:
    """State, exit code, config and summary of a run."""
    seen: dict[str, Any] = json.loads(leet(folder, "--summary"))
    return seen

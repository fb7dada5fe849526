"""A store with a small sweep whose runs were never executed: shapes are real, predictions are drawn."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitq.config import RunConfig, signature
from vitq.store import Store, SweepRecord
from vitq.store.result import Result
from vitq.store.status import Status

N = 400
FP_CORRECT = 392
METHODS = ("minmax", "percentile", "repq_vit")
BITS = (8, 6, 4, 3)
# Images that each method gets wrong on top of full precision, by bits.
WRONG = {
    "minmax": {8: 2, 6: 8, 4: 60, 3: 300},
    "percentile": {8: 2, 6: 4, 4: 30, 3: 220},
    "repq_vit": {8: 1, 6: 2, 4: 12, 3: 130},
}


def config(method: str = "minmax", bits: int = 8, seed: int = 0, calib: int = 32, **changes: Any) -> RunConfig:
    """Config of one run; fp32 quantizes nothing. `changes`: dotted keys with `__` for dots."""
    raw: dict[str, Any] = {
        "model": {"name": "vit_digits", "input_size": 32},
        "data": {"name": "digits", "dataset": "digits", "num_classes": 10, "fingerprint": "ab" * 32},
        "method": {"name": method, "kinds": {} if method == "fp32" else {"default": {}}},
        "bits": {"weight": bits, "activation": bits},
        "calib": {"size": calib},
        "seed": seed,
    }
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        node = raw
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    parsed, problems = RunConfig.parse(raw)
    assert parsed is not None, problems
    return parsed


def correct(wrong: int, seed: int = 0) -> np.ndarray:
    """Correctness of N images: full precision's mistakes first, then `wrong` more of those it has right."""
    right = np.arange(N) < FP_CORRECT
    extra = np.random.default_rng(seed).choice(FP_CORRECT, wrong, replace=False)
    right[extra] = False
    return right


def finish(store: Store, run: RunConfig, right: np.ndarray, **changes: Any) -> str:
    """Record a run as done, with these images right."""
    folder = store.run(signature(run))
    folder.write_config(run.to_dict())
    bits = 32 if not run.method.quantizes or run.bits.weight == "fp" else int(run.bits.weight)
    top1, fp = 100 * float(right.mean()), 100 * FP_CORRECT / N
    raw: dict[str, Any] = {
        "signature": folder.signature,
        "config": run.to_dict(),
        "metrics": {
            "top1": top1, "top5": min(top1 + 1.5, 100.0), "nll": 0.1, "fp_top1": fp, "drop": fp - top1,
            "agreement": 95.0, "kl": 0.05, "n_eval": right.size,
        },
        "size": {
            "mean_weight_bits": bits, "mean_activation_bits": bits, "fp_bytes": 840_000,
            "quantized_bytes": 840_000 * bits // 32 + (3000 if run.method.name == "repq_vit" else 0),
        },
        "timings": {"total": 1.25 + bits / 10, "stages": {}},
        "memory": {"peak_rss_bytes": 5 * 10**8},
        "provenance": {
            "versions": {"torch": "2.15.0", "timm": "1.0.31"}, "host": {"name": "node<1>", "cores": 2},
            "code": {"vitq": "0.1.0", "commit": "0123abc", "dirty": None},
            "started_at": "2026-11-20T12:00:00+00:00", "finished_at": "2026-11-20T12:00:04+00:00",
        },
    }  # fmt: skip
    folder.write_result(Result(**(raw | changes)))
    label = np.arange(right.size, dtype=np.int64) % 10
    folder.write_predictions({"correct": right, "label": label})
    folder.write_status(Status(state="done"))
    return folder.signature


def demo(root: Path, seeds: int = 1) -> Store:
    """fp32 + three methods × four bit-widths × seeds; one run failed, one is pending."""
    store = Store(root)
    signatures = [finish(store, config("fp32"), correct(0))]
    for method in METHODS:
        for bits in BITS:
            for seed in range(seeds):
                run = config(method, bits, seed)
                if (method, bits, seed) == ("percentile", 3, 0):
                    folder = store.run(signature(run))
                    folder.write_config(run.to_dict())
                    reason = "RuntimeError: out of memory <script>alert(1)</script>"
                    folder.write_status(Status(state="failed", error=reason, traceback="Traceback …"))
                    signatures.append(folder.signature)
                elif (method, bits, seed) == ("percentile", 6, 0):
                    folder = store.run(signature(run))
                    folder.write_config(run.to_dict())
                    signatures.append(folder.signature)
                else:
                    wrong = WRONG[method][bits] + 3 * seed
                    signatures.append(finish(store, run, correct(wrong, seed=bits + 10 * seed)))
    record = SweepRecord(
        name="demo", description="Round-to-nearest against RepQ-ViT", signatures=signatures, baseline="minmax",
        command="vitq sweep demo", axes={"method": ["fp32", *METHODS], "bits": [f"w{b}a{b}" for b in BITS]},
    )  # fmt: skip
    store.write_sweep(record)
    return store


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folder of the demo by number of seeds; every test works on a copy, since each write waits for the disk."""
    return {seeds: demo(tmp_path_factory.mktemp("demo") / "runs", seeds).root for seeds in (1, 3)}


@pytest.fixture
def store(demos: dict[int, Path], tmp_path: Path) -> Store:
    return Store(shutil.copytree(demos[1], tmp_path / "runs"))


@pytest.fixture
def seeded(demos: dict[int, Path], tmp_path: Path) -> Store:
    return Store(shutil.copytree(demos[3], tmp_path / "runs"))


@pytest.fixture
def make_config() -> Callable[..., RunConfig]:
    return config


@pytest.fixture
def make_sweep(tmp_path: Path) -> Callable[..., Store]:
    """A sweep of the given configs, all finished with the given number of further mistakes."""

    def make(*runs: tuple[RunConfig, int], baseline: str | None = None) -> Store:
        store = Store(tmp_path / "runs")
        signatures = [finish(store, run, correct(wrong)) for run, wrong in runs]
        store.write_sweep(SweepRecord(name="demo", signatures=signatures, baseline=baseline))
        return store

    return make

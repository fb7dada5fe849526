"""Sweeps for the cluster, of the fake engine (tests/fake_worker.py) and of the real one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import fake_worker
from tests.fake_worker import launch, until
from vitq.planning import compose, planner
from vitq.planning.plan import Plan
from vitq.store import Store


def make(repo: Path, folder: Path, *words: str, fail: str = "None", name: str = "test", **options: Any) -> Plan:
    """A committed plan of `launcher=slurm` whose jobs execute the fake engine."""
    asked = {"poll": 0.1, "ask": 1.0, "warning": 60, "time": 30, "mem": "100MB"} | options
    return fake_worker.make(repo, folder, "slurm", *words, fail=fail, name=name, **asked)


@contextmanager
def launched(planned: Plan) -> Iterator[list[tuple[list[str], str]]]:
    """The launch in a thread; what it returned is in the list afterwards."""
    out: list[tuple[list[str], str]] = []
    thread = threading.Thread(target=lambda: out.append(launch(planned)), daemon=True)
    thread.start()
    yield out  # where this raises, the thread ends with the tests
    thread.join(90)
    assert not thread.is_alive(), "the launch goes on"


def tidy(store: Store) -> bool:
    """No claim and no temporary file is left, as soon as the last process has had the time to give them back."""
    until(lambda: not list(store.root.glob("*/claim*")), "no claim is left", 20)
    return not list(store.root.glob("**/*.tmp"))


def real(folder: Path, launcher: str, *words: str, name: str = "test", **options: Any) -> Plan:
    """A committed plan of the real engine: runs of a small random ViT of six blocks on the digits."""
    from safetensors.torch import save_file

    from tests.tiny import tiny

    kwargs = {"depth": 6, "img_size": 32, "patch_size": 8, "embed_dim": 48, "num_heads": 3}
    checkpoint = folder / "tiny.safetensors"
    if not checkpoint.exists():
        save_file(tiny("vit", num_classes=10, depth=6).state_dict(), checkpoint)
    written = ", ".join(f"{key}: {value}" for key, value in kwargs.items())
    model = ["model=timm", "model.name=vit_tiny_patch16_224", f"model.kwargs={{{written}}}", "model.input_size=32"]
    file, roots = compose.root_config()
    all_words = ["tracker=none", f"launcher={launcher}", f"runs_dir={folder / launcher}", *model]
    all_words += [f"model.checkpoint={checkpoint}", f"cache_dir={folder / 'cache'}", "device=cpu", *words]
    if launcher == "slurm":
        options = {"poll": 0.1, "ask": 1.0, "warning": 60, "time": 30, "cpus": 1} | options
    all_words += [f"++launcher.options.{key}={value}" for key, value in options.items()]
    planned = planner.make(compose.load(file, roots, all_words, multirun=True), name=name)
    planned.commit()
    return planned


def facts(planned: Plan) -> dict[str, tuple[Any, ...]]:
    """All of each result that has to be equal wherever it was computed, bit for bit: predictions, and the model where
    it is kept."""
    found = {}
    for run in planned.runs:
        run_dir = planned.store.run(run.signature)
        result = run_dir.read_result()
        assert result is not None, run_dir.read_status()
        table = run_dir.read_sites().to_json(double_precision=15)
        model = run_dir.model_path.read_bytes() if run.config.keep_model else b""
        found[run.signature] = (result.metrics, result.size, table, run_dir.predictions_path.read_bytes(), model)
    return found

"""What a process keeps from run to run: shared, within its share of the memory, and without a trace in results."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.fake_engine import FakeEngine
from tests.tiny import images, part, tiny
from tests.tiny import run as run_steps
from vitq import machine, track
from vitq.engine.memory_cache import MEMORY, SHARE, MemoryCache
from vitq.job import execute, measure
from vitq.job.run_log import RunLog
from vitq.planning import compose, planner
from vitq.progress import Progress
from vitq.steps import Workspace
from vitq.steps.step import parse_step

KILOBYTE = torch.zeros(256)


def limited(kilobytes: float) -> MemoryCache:
    """A shelf that has so much room, whatever lies on it already."""
    made: list[MemoryCache] = []
    made.append(MemoryCache(lambda device: int(1024 * kilobytes / SHARE) - made[0]._held(device)))
    return made[0]


def test_old_groups_make_room_and_a_group_keeps_its_beginning() -> None:
    kept = limited(4)
    for group, key in [("a", 0), ("a", 1), ("b", 0), ("b", 1)]:
        kept.put(group, key, KILOBYTE)
    assert kept.tensor("a", 1) is not None  # used: `b` is the oldest now
    kept.put("c", 0, KILOBYTE)
    assert [kept.tensor(*place) is not None for place in [("a", 0), ("b", 0), ("c", 0)]] == [True, False, True]
    for key in range(1, 9):
        kept.put("c", key, KILOBYTE)
    assert [kept.tensor("c", key) is not None for key in range(6)] == [True] * 4 + [False] * 2
    assert kept.tensor("a", 0) is None
    kept.put("d", 0, torch.zeros(2000))  # more than there is room for: nothing has to go for it
    assert len(kept) == 4
    assert (kept.clear(), kept.clear(), len(kept)) == (True, False, 0)


def test_everybody_gets_a_model_of_his_own() -> None:
    loads = []

    def load() -> nn.Module:
        loads.append(1)
        torch.manual_seed(len(loads))
        return nn.Linear(3, 3)

    kept = limited(1)
    first = kept.model("x", load)
    expected = part(first, "").weight.detach().clone()
    part(first, "").weight.data.zero_()
    assert torch.equal(part(kept.model("x", load), "").weight, expected)
    assert len(loads) == 1
    kept.model("y", load)
    assert len(loads) == 2
    full = limited(0)
    assert not torch.equal(part(full.model("x", load), "").weight, part(full.model("x", load), "").weight)


@pytest.mark.parametrize("family", ["vit", "swin"])
@pytest.mark.parametrize(
    "raw",
    [
        {"do": "reconstruct", "iterations": 3, "batch_size": 4},
        {"do": "reconstruct", "iterations": 3, "batch_size": 4, "input": "fp", "learn": ["activation_scales"]},
        {"do": "bias_correction"},
        {"do": "bias_correction", "input": "quantized"},
    ],
    ids=["reconstruct", "fp", "bias", "bias quantized"],
)
def test_shared_activations_change_no_bit(
    workspace: Callable[..., Workspace],
    family: str,
    raw: dict[str, Any],
) -> None:
    """The second run reads what the first one computed; both end as one that shares nothing."""
    kinds = {"default": {"quantizer": "uniform", "granularity": "tensor", "range": "minmax"}}
    ends = []
    common = MemoryCache(lambda device: 1 << 40)
    for number, kept in enumerate((None, common, common)):
        work = workspace(tiny(family), {"kinds": kinds}, weight=4, activation=4)
        for name, value in {"fingerprint": "images", "mean": (0.5,) * 3, "std": (0.5,) * 3}.items():
            setattr(work.calib, name, value)
        work.memory = kept
        calls = count_calls(work)
        for words in ({"do": "calibrate"}, raw):
            step, problems = parse_step("step", dict(words))
            assert step is not None, problems
            step.run(work)
        ends.append({name: value.clone() for name, value in work.model.model.state_dict().items()})
        if number == 2 and raw["do"] == "reconstruct":
            assert not calls, "the untouched model is not evaluated again"
    for other in ends[1:]:
        assert all(torch.equal(value, other[name]) for name, value in ends[0].items())
    assert len(common) == (0 if raw.get("input") == "quantized" else len(work.teacher.segments))


# What one of two runs has otherwise: of what, which attribute, its value.
OTHER: dict[str, tuple[str, str, Any]] = {
    "images": ("calib", "fingerprint", "other images"),
    "mean": ("calib", "mean", (0.4,) * 3),
    "std": ("calib", "std", (0.4,) * 3),
    "batch size": ("config.calib", "batch_size", 5),
    "cache": ("config.calib", "cache", "device"),
    "model": ("config.model", "name", "other"),
    "classes": ("config.data", "num_classes", 7),
}


@pytest.mark.parametrize("what", OTHER)
def test_activations_of_other_images_or_models_are_not_shared(
    workspace: Callable[..., Workspace],
    what: str,
) -> None:
    """Whatever alone says that two runs compute other activations: the second ends as one that shares nothing."""
    owner, attribute, value = OTHER[what]
    common = MemoryCache(lambda device: 1 << 40)
    ends = []
    for seed, kept in ((1, common), (2, common), (2, None)):
        work = workspace(tiny("vit"), {"kinds": {"default": {}}}, weight=4, activation=4)
        images(work).copy_(torch.randn(images(work).shape, generator=torch.Generator().manual_seed(seed)))
        for name, word in {"fingerprint": "images", "mean": (0.5,) * 3, "std": (0.5,) * 3}.items():
            setattr(work.calib, name, word)
        if seed == 2:
            object.__setattr__(attrgetter(owner)(work), attribute, value)
        work.memory = kept
        run_steps(work, {"do": "calibrate"}, {"do": "bias_correction"})
        ends.append({name: tensor.clone() for name, tensor in work.model.model.state_dict().items()})
    assert all(torch.equal(ends[1][name], tensor) for name, tensor in ends[2].items())
    assert len(common) == 2 * len(work.teacher.segments), "both runs' own are kept"


def count_calls(work: Workspace) -> list[str]:
    """Names of the modules of the full-precision model, as they are evaluated."""
    calls: list[str] = []
    for name, module in work.teacher.model.named_modules():
        module.register_forward_pre_hook(lambda _m, _x, name=name: calls.append(name))
    return calls


def test_two_runs_in_one_process_load_their_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real engine; what the second run gives is what it gives in a process of its own."""

    MEMORY.clear()
    loads: list[object] = []
    real = measure.load_model

    def counted(*words: Any) -> nn.Module:
        loads.append(words[0])
        return real(*words)

    monkeypatch.setattr(measure, "load_model", counted)
    results = []
    for number, again in enumerate((True, False)):
        file, roots = compose.root_config()
        words = ["method=minmax,repq_vit", "bits=w4a4", "tracker=none", "data.eval_limit=64", "device=cpu"]
        made = planner.make(
            compose.load(file, roots, [*words, f"runs_dir={tmp_path / str(number)}"], multirun=True), "t"
        )
        made.commit()
        for run in made.runs:
            if not again:
                MEMORY.clear()
            execute.execute(made.store.run(run.signature), Progress(), track.make(run.config.tracker))
        results.append([made.store.run(run.signature).predictions_path.read_bytes() for run in made.runs])
    assert len(loads) == 3
    assert results[0] == results[1]


def test_memory_that_runs_out_is_first_taken_from_what_is_kept(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more attempt where something was kept; without it the run fails, as it must."""
    file, roots = compose.root_config()
    made = planner.make(compose.load(file, roots, ["tracker=none"], multirun=True), "t")
    made.commit()
    run_dir = made.store.run(made.runs[0].signature)
    tries = []
    full = RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory")

    def none_left(*words: object) -> None:
        tries.append(len(MEMORY))
        raise full

    monkeypatch.setattr(measure, "_measure", none_left)
    MEMORY.clear()
    MEMORY.put("group", 0, KILOBYTE)
    with pytest.raises(RuntimeError) as raised:
        measure.measured(made.runs[0].config, run_dir, RunLog(run_dir, Progress()))
    assert raised.value is full
    assert tries == [1, 0]
    assert "memory ran out; what this process kept" in run_dir.read_log()
    with pytest.raises(RuntimeError) as raised:
        measure.measured(made.runs[0].config, run_dir, RunLog(run_dir, Progress()))
    assert raised.value is full
    assert tries == [1, 0, 0]


def test_the_limit_of_a_job_counts(tmp_path: Path) -> None:
    """Both versions of control groups, a limit anywhere above the process."""
    (tmp_path / "mine").write_text("4:memory:/job/step\n3:cpu:/x\n0::/slice/scope\n")
    for place, files in {
        "memory/job": {"memory.limit_in_bytes": "1000", "memory.usage_in_bytes": "400"},
        "slice": {"memory.max": "900", "memory.current": "850"},
        "slice/scope": {"memory.max": "max", "memory.current": "850"},
    }.items():
        (tmp_path / place).mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / place / name).write_text(text + "\n")
    assert sorted(machine._cgroup_room(tmp_path, tmp_path / "mine"))[:2] == [50, 600]
    assert machine._cgroup_room(tmp_path, tmp_path / "none") == [machine._NO_LIMIT]
    assert 0 < machine.free_memory(torch.device("cpu")) < 1 << 50

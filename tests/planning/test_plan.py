"""The plan: everything is checked before anything starts, and the identity is the resolved config's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.errors import is_about
from tests.fake_engine import FakeEngine, result_of
from tests.planning.plans import make, problems
from vitq.config import RunConfig, signature
from vitq.errors import Problem
from vitq.store import Store


def test_single_run(engine: FakeEngine, tmp_path: Path) -> None:
    planned = make("bits=w4a4", "seed=3", multirun=False)
    (run,) = planned.runs
    assert planned.name is None
    assert run.label == "vit_digits minmax w4a4"
    assert run.signature == signature(run.config)
    assert run.config.data.fingerprint == "f" * 64
    assert run.config.runs_dir == str(tmp_path / "runs")
    assert not run.done
    assert not Path("runs").exists()


def test_commit_writes_configs_that_parse_to_the_same_signature(engine: FakeEngine) -> None:
    planned = make("method=minmax,mse", "bits=w8a8,w4a4")
    planned.commit("vitq run -m …")
    store = Store("runs")
    assert store.signatures() == sorted(run.signature for run in planned.runs)
    for run in planned.runs:
        config, found = RunConfig.parse(store.run(run.signature).read_config())
        assert config == run.config, found
        assert signature(config) == run.signature
        status = store.run(run.signature).read_status()
        assert status is not None
        assert status.state == "planned"
    record = store.read_sweep("test")
    assert record.signatures == [run.signature for run in planned.runs]
    assert record.axes == {"method": ["minmax", "mse"], "bits": ["w8a8", "w4a4"]}
    assert record.command == "vitq run -m …"


def test_one_full_precision_run_for_all_bits_and_seeds(engine: FakeEngine) -> None:
    planned = make("method=fp32,minmax", "bits=w8a8,w4a4", "seed=0,1", "calib.size=16,32")
    assert planned.cells == 16
    assert [run.label for run in planned.runs if run.config.method.name == "fp32"] == ["vit_digits fp32"]
    assert len(planned.runs) == 1 + 8
    fp = planned.runs[0].config
    assert (fp.bits.label, fp.seed) == ("FP", 0)
    alone = make("method=fp32", "bits=w3a3", "seed=9", multirun=False)
    assert alone.runs[0].signature == planned.runs[0].signature
    assert alone.runs[0].config == fp


def test_rates_are_no_part_of_a_recipe_that_learns_nothing(engine: FakeEngine) -> None:
    runs = make("method=minmax,ias_vit", "method.iterations=5", "method.rates=paper,sqrt").runs
    found = [(run.config.method.name, run.config.method.rates) for run in runs]
    assert found == [("minmax", "paper"), ("ias_vit", "paper"), ("ias_vit", "sqrt")]


def test_each_recipe_has_the_rates_that_suit_it(engine: FakeEngine) -> None:
    """What is recorded is the rule, so a run is the same one whether it is asked for by name or as what suits."""
    methods = "method=minmax,qdrop,adalog_reconstruct"
    suited, named = (make(methods, "method.iterations=5", f"method.rates={word}") for word in ("suited", "paper,sqrt"))
    rules = {run.config.method.name: run.config.method.rates for run in suited.runs}
    assert rules == {"minmax": "paper", "qdrop": "sqrt", "adalog_reconstruct": "paper"}
    assert {run.signature for run in suited.runs} < {run.signature for run in named.runs}
    assert suited.warnings == ()


def test_iterations_are_no_part_of_a_recipe_that_has_none(engine: FakeEngine) -> None:
    methods = "method=fp32,minmax,gptq,ias_vit,scale_predictor"
    planned = make(methods, "method.iterations=3,4,null")
    assert planned.cells == 15
    found = [(run.config.method.name, run.config.method.iterations) for run in planned.runs]
    plain_ones = [name for name, iterations in found if iterations is None]
    assert plain_ones == ["fp32", "minmax", "gptq", "ias_vit", "scale_predictor(repq_vit)"]
    assert len(found) == 7
    assert [iterations for name, iterations in found if name == "ias_vit"] == [3, 4, None]
    plain = {run.signature for run in make("method=fp32,minmax,gptq").runs}
    assert plain < {run.signature for run in planned.runs}
    # Its predictor is fitted in closed form; a step that is switched off does not count.
    for override, runs in (("fit=closed", 1), ("fit=gradient", 2), ("enabled=false", 1)):
        predict = f"method.steps.predict.{override}"
        assert len(make("method=scale_predictor", "method.iterations=3,4", predict).runs) == runs


def test_identity_is_the_resolved_config_not_the_overrides(engine: FakeEngine) -> None:
    by_group = make("bits=w4a4", multirun=False).runs[0]
    by_value = make("bits.weight=4", "bits.activation=4", "tracker=none", "device=cpu", multirun=False).runs[0]
    assert by_group.signature == by_value.signature
    assert make("bits=w4a4", "bits.kinds.probs=8", multirun=False).runs[0].signature != by_group.signature


def test_finished_runs_are_marked_and_not_checked_again(engine: FakeEngine) -> None:
    first = make("bits=w8a8,w4a4")
    first.commit()
    done = first.runs[1]
    first.store.run(done.signature).write_result(result_of(done.config, done.signature))
    engine.validated.clear()
    again = make("bits=w8a8,w4a4")
    assert [run.done for run in again.runs] == [False, True]
    assert [config.bits.weight for config in engine.validated] == [8]


def test_questions_are_asked_once(engine: FakeEngine) -> None:
    make("method=minmax,mse", "bits=w8a8,w4a4", "seed=0,1")
    assert (engine.identified, engine.described) == (1, 1)
    assert len(engine.validated) == 4  # seeds differ in nothing that the engine checks


def test_all_problems_of_all_runs_at_once(engine: FakeEngine) -> None:
    found = problems(
        "method=minmax,minmaxx",
        "bits.weight=4,9",
        "calib.size=32,5000",
        "calib.sizee=1",
        "launcher=inline",
    )
    assert sorted(problem.key for problem in found) == ["bits.weight", "calib.sizee", "method"]
    by_key = {problem.key: problem for problem in found}
    assert is_about(by_key["method"], "method", "minmaxx", ["minmax"])
    assert is_about(by_key["bits.weight"], "bits.weight", 9, [2, 3, 4, 5, 6, 7, 8, "fp"])
    # The calibration size is looked at once the schema is met.
    assert is_about(by_key["calib.sizee"], "calib.sizee", "sizee", ["augment", "balanced", "size"])
    assert "4 of 8 runs" in by_key["method"]


def test_data_and_engine_problems_are_collected(engine: FakeEngine) -> None:
    found = problems("calib.size=32,5000", "method.kinds.prob.bits=3,4")
    assert any(is_about(problem, "method.kinds.prob.bits", "bits", ["granularity"]) for problem in found)
    found = problems("calib.size=32,5000,6000", "method.kinds.prob={quantizer: uniform}")
    assert [(problem.key, problem.value) for problem in found] == [
        ("method.kinds.prob", "prob"),
        ("calib.size", 5000),
        ("calib.size", 6000),
    ]
    assert found[0].endswith("  [all 3 runs]")
    assert found[1].endswith("  [1 of 3 runs: vit_digits minmax w8a8 calib.size=5000]")


def test_missing_data_root_is_one_line_for_the_sweep(engine: FakeEngine) -> None:
    (problem,) = problems("data.root=missing", "seed=0,1,2")
    assert is_about(problem, "data.root", "missing")
    assert engine.described == 1


def test_one_look_shows_what_is_wrong_with_data_launcher_and_method(engine: FakeEngine) -> None:
    found = problems("data.root=missing", "launcher.name=locl", "method.kinds.prob={quantizer: uniform}")
    assert [problem.key for problem in found] == ["launcher.name", "data.root", "method.kinds.prob"]


def test_a_launcher_that_does_not_exist(engine: FakeEngine) -> None:
    assert is_about(problems("launcher=slrm", "seed=0,1")[0], "launcher", "slrm", ["inline"])
    assert is_about(problems("launcher.name=slrm")[0], "launcher.name", "slrm", ["inline"])


def test_one_store_and_one_launcher_per_sweep(engine: FakeEngine) -> None:
    found = problems("runs_dir=a,b")[0]
    assert found.key == "runs_dir"
    assert [Path(folder).name for folder in found.value] == ["a", "b"]  # type: ignore[attr-defined]


def test_held_out_images_set_the_evaluation_split_aside(engine: FakeEngine) -> None:
    words = ("data.held_out=20", "method=minmax")
    planned = [make(*words, *more).runs[0] for more in ((), ("data.eval_split=train", "data.eval_limit=5"))]
    assert {run.config.data.eval_split for run in planned} == {"calib"}
    assert planned[0].signature == planned[1].signature
    assert planned[0].signature != make("method=minmax").runs[0].signature


COCO = ("data=coco", "data.root=c", "model=mask_rcnn_swin_tiny", "task=segmentation", "method=minmax")


def test_activations_of_coco_wait_on_disk_and_the_plan_says_how_large(engine: FakeEngine) -> None:
    assert make("method=minmax").runs[0].config.calib.cache == "host"
    plan = make(*COCO, "calib.size=16,64", "calib.cache=auto")
    assert [run.config.calib.cache for run in plan.runs] == ["disk", "disk"]
    assert [run.room for run in plan.runs] == [(16 * 10**9, "disk"), (64 * 10**9, "disk")]
    (note,) = plan.notes
    assert "64 GB" in note
    assert [run.room for run in make(*COCO, "calib.cache=host", multirun=False).runs] == [(32 * 10**9, "host")]
    assert make(*COCO[:-1], "method=fp32").runs[0].room is None
    assert make("method=minmax").notes == []


def test_what_data_and_room_depend_on_is_asked_of_each(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks are looked at where they are scored alone, and what waits depends on the sites that are quantized."""
    asked: list[str] = []

    def data_problems(config: RunConfig) -> list[Problem]:
        asked.append(config.task)
        return []

    monkeypatch.setattr(engine, "data_problems", data_problems)
    make(*COCO, "task=segmentation,detection")
    assert asked == ["segmentation", "detection"]
    monkeypatch.setattr(engine, "room", lambda config: 1 if config.bits.scope == "backbone" else 2)
    rooms = {run.config.bits.scope: run.room for run in make(*COCO, "bits.scope=all,backbone").runs}
    assert rooms == {"all": (2, "disk"), "backbone": (1, "disk")}


def test_calibration_images_by_ids_are_a_key_of_the_command_line(engine: FakeEngine) -> None:
    one, seeded = make(*COCO, "calib.ids=[397133]").runs[0], make(*COCO).runs[0]
    assert (one.config.calib.ids, one.config.calib.size) == ((397133,), 1)
    assert one.signature != seeded.signature
    assert one.signature == make(*COCO, "calib.ids=[397133]", "calib.size=64").runs[0].signature


def test_paths_that_exist_become_absolute_and_others_stay(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "weights.safetensors").write_bytes(b"")
    run = make("data.root=images", "model.checkpoint=weights.safetensors", multirun=False).runs[0]
    assert run.config.data.root == str(tmp_path / "images")
    assert run.config.model.checkpoint == str(tmp_path / "weights.safetensors")
    assert run.config.model.weights == "a" * 64
    assert make("data.root='hfds://some/set'", multirun=False).runs[0].config.data.root == "hfds://some/set"

"""The section `sweep:` of a file: cells that are left out, probes of some cells, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.errors import is_about
from tests.fake_engine import FakeEngine
from tests.planning.plans import sweep
from vitq.errors import ConfigError


def test_exclusions(engine: FakeEngine, tmp_path: Path) -> None:
    planned = sweep(tmp_path, "{exclude: [{method: minmax, bits: w3a3}, {method: 'm*e', calib.size: [16, 64]}]}")
    assert planned.name == "mine"
    assert [run.label for run in planned.runs] == [
        "vit_digits fp32",
        "vit_digits minmax w8a8 calib.size=16",
        "vit_digits minmax w8a8 calib.size=32",
        "vit_digits mse w8a8 calib.size=32",
        "vit_digits mse w3a3 calib.size=32",
    ]
    assert planned.warnings == ()
    one_idle = sweep(tmp_path, "{exclude: [{method: minmax}, {method: mse, bits: w4a4}]}")
    assert [line.partition(": ")[0] for line in one_idle.warnings] == ["sweep.exclude"]
    assert '{"method": "mse", "bits": "w4a4"}' in one_idle.warnings[0]


def test_probes_of_some_cells(engine: FakeEngine, tmp_path: Path) -> None:
    entry = "{cells: {method: mse, bits: 'w3*'}, options: {landscape: {points: 5}}}"
    planned = sweep(tmp_path, f"{{probes: [{entry}, {{cells: {{method: mse}}, options: {{hessian: {{}}}}}}]}}")
    probed = {run.label: run.config.probe.wanted for run in planned.runs if run.config.probe.wanted}
    both = {"landscape": {"points": 5}, "hessian": {}}
    assert probed == {
        f"vit_digits mse {bits} calib.size={size}": both if bits == "w3a3" else {"hessian": {}}
        for bits in ("w8a8", "w3a3")
        for size in (16, 32)
    }
    plain = {run.signature for run in sweep(tmp_path, "{}").runs}
    assert {run.signature for run in planned.runs} == plain
    idle = sweep(tmp_path, "{probes: [{cells: {bits: w4a4}, options: {landscape: {}}}]}")
    assert [line.partition(": ")[0] for line in idle.warnings] == ["sweep.probes"]


@pytest.mark.parametrize(
    ("section", "key", "value", "valid"),
    [
        ("{probes: [{cells: {metod: mse}, options: {landscape: {}}}]}", "sweep.probes", "metod", ["method"]),
        ("{probes: [{cells: {method: msee}, options: {landscape: {}}}]}", "sweep.probes", "msee", ["mse"]),
        ("{exclude: [{metod: minmax}]}", "sweep.exclude", "metod", ["method"]),
        ("{exclude: [{method: '*'}]}", "sweep.exclude", [{"method": "*"}], []),
        ("{exclude: [{method: minmaxx, bits: w3a3}]}", "sweep.exclude", "minmaxx", ["adalog", "minmax"]),
        ("{exclude: [{bits: [w3a3, 'w9*']}]}", "sweep.exclude", "w9*", ["fp", "w3a3"]),
        ("{nam: x}", "sweep.nam", "nam", ["baseline", "cost", "description", "exclude", "name"]),
        ("{baseline: minmx}", "sweep.baseline", "minmx", ["fp32", "minmax", "mse"]),
        ("{name: a/b}", "sweep.name", "a/b", []),
    ],
)
def test_a_wrong_sweep_section(
    engine: FakeEngine, tmp_path: Path, section: str, key: str, value: object, valid: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        sweep(tmp_path, section)
    (problem,) = error.value.problems
    assert is_about(problem, key, value, valid)
    assert not problem.endswith("]"), "it is a problem of the sweep, and of no run"

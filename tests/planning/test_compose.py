"""Composition by Hydra. Also run against Hydra's next version, by test_hydra_next.py: imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.errors import is_about, refuses
from vitq.config.search_path import ConfigPath, shipped, sweep_file
from vitq.errors import ConfigError
from vitq.planning import compose, composer, session
from vitq.planning.compose import ConfigCell


def cells(*overrides: str, multirun: bool = False, config_dir: str | None = None) -> list[ConfigCell]:
    file, roots = compose.root_config(config_dir)
    return list(compose.expand(compose.load(file, roots, overrides, multirun=multirun)))


def raw(*overrides: str) -> dict[str, Any]:
    (cell,) = cells(*overrides)
    assert cell.problem is None
    return cell.raw


def test_defaults() -> None:
    config = raw()
    assert config["bits"] == {"weight": 8, "activation": 8}
    assert config["tracker"]["mode"] == "offline"
    assert config["launcher"]["name"] == "inline"
    assert (config["seed"], config["device"], config["runs_dir"]) == (0, "auto", "runs")
    assert "hydra" not in config


def test_cache_dir_comes_from_the_environment_or_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VITQ_CACHE_DIR", raising=False)
    assert raw()["cache_dir"] == "~/.cache/vitq"
    monkeypatch.setenv("VITQ_CACHE_DIR", "/some where/else")
    assert raw()["cache_dir"] == "/some where/else"


def test_groups_and_values() -> None:
    config = raw("bits=w3a4", "calib.size=64", "seed=7", "method=mse")
    assert config["bits"] == {"weight": 3, "activation": 4}
    assert (config["calib"]["size"], config["seed"], config["method"]["name"]) == (64, 7, "mse")


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("bits.kinds.probs=8", ("bits", "kinds", "probs"), 8),
        ("bits.weight=fp", ("bits", "weight"), "fp"),
        ("++bits.first_last=8", ("bits", "first_last"), 8),
        ("model.kwargs={depth: 3, img_size: 64}", ("model", "kwargs", "depth"), 3),
        ("method.steps.extra={do: calibrate, enabled: false}", ("method", "steps", "extra", "enabled"), False),
        ("model.checkpoint='/a b/c,d=e.safetensors'", ("model", "checkpoint"), "/a b/c,d=e.safetensors"),
        ("data.mean=[0.5,0.5,0.5]", ("data", "mean"), [0.5, 0.5, 0.5]),
    ],
)
def test_values_may_add_keys_that_no_file_lists(override: str, path: tuple[str, ...], value: Any) -> None:
    node: Any = raw(override)
    for key in path:
        node = node[key]
    assert node == value


def test_delete_and_plus_are_hydras_own() -> None:
    config = raw("~calib.cache", "+bits.image=8", "calib.size=5")
    assert "cache" not in config["calib"]
    assert config["bits"]["image"] == 8
    assert config["calib"]["size"] == 5


def test_multirun_takes_the_product_in_order() -> None:
    found = cells("method=minmax,mse", "bits=w8a8,w4a4", "seed=range(2)", multirun=True)
    assert [cell.overrides for cell in found][:3] == [
        ("method=minmax", "bits=w8a8", "seed=0"),
        ("method=minmax", "bits=w8a8", "seed=1"),
        ("method=minmax", "bits=w4a4", "seed=0"),
    ]
    assert len(found) == 8
    for cell in found:
        assert f"method={cell.raw['method']['name']}" in cell.overrides
        assert f"seed={cell.raw['seed']}" in cell.overrides
        assert f"bits=w{cell.raw['bits']['weight']}a{cell.raw['bits']['activation']}" in cell.overrides


def test_cells_do_not_share_state() -> None:
    first, second = cells("calib.size=5,6", multirun=True)
    first.raw["calib"]["size"] = 99
    assert second.raw["calib"]["size"] == 6


def test_hydras_sweep_grammar() -> None:
    assert [c.raw["seed"] for c in cells("seed=choice(3,1)", multirun=True)] == [3, 1]
    assert [c.choices["bits"] for c in cells("bits=glob(w4*)", multirun=True)] == ["w4a3", "w4a4", "w4a8"]


def test_fast_path_equals_plain_hydra() -> None:
    """Values set on a copy of a composed config give what Hydra gives when it composes everything."""
    overrides = ["bits=w4a4", "bits.weight=3", "model.kwargs={a: 1}", "model.kwargs.b=2", "data.mean=[0.1,0.2,0.3]"]
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(shipped("conf")), version_base=session.VERSION_BASE):
        plain = hydra_compose("config", [o if o.startswith("bits=") else f"++{o}" for o in overrides])
    assert raw(*overrides) == OmegaConf.to_container(plain, resolve=True)


def test_several_values_need_multirun() -> None:
    with refuses(ConfigError, key="seed", value=["1", "2"]):
        cells("seed=1,2")


@pytest.mark.parametrize(
    ("override", "key", "value", "valid"),
    [
        ("bits=4", "bits", "4", ["fp", "w3a3"]),
        ("bits=8,4", "bits", "8", ["fp", "w3a3"]),
        ("bits=null", "bits", "None", ["fp", "w3a3"]),
        ("model=1.5", "model", "1.5", ["vit_digits"]),
        ("method=[repq_vit,minmax]", "method", ["repq_vit", "minmax"], []),
        ("probe=[landscape,2]", "probe", "2", ["landscape"]),
        ("=3", "", "=3", []),
    ],
)
def test_what_is_no_name_of_a_groups_file_is_named(override: str, key: str, value: Any, valid: list[str]) -> None:
    """Hydra raises a bare ValueError for a number, and lays a list of files over each other."""
    with pytest.raises(ConfigError) as error:
        cells(override, multirun=True)
    assert is_about(error.value.problems[0], key, value, valid)


def test_a_list_in_a_sweeps_params_is_no_axis_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    params = "{method: 'mse', bits: [w4a4, w3a3]}"
    file.write_text(f"defaults: [config, _self_]\nhydra: {{mode: MULTIRUN, sweeper: {{params: {params}}}}}\n")
    with refuses(ConfigError, key="bits", value=["w4a4", "w3a3"]):
        compose.load(file, compose.root_config(None)[1], [], multirun=True)


def test_override_that_does_not_parse_is_named() -> None:
    with pytest.raises(ConfigError) as error:
        cells("seed=[1", "method", multirun=True)
    assert [problem.value for problem in error.value.problems] == ["seed=[1", "method"]


def test_unknown_option_names_the_valid_ones(repo: Path) -> None:
    (cell,) = cells("bits=w2a8")
    assert cell.problem is not None
    assert is_about(cell.problem, "bits", "w2a8")
    assert cell.problem.valid == tuple(sorted(path.stem for path in (repo / "conf" / "bits").glob("*.yaml")))


def test_one_bad_cell_does_not_hide_the_others() -> None:
    good, bad, also = cells("bits=w8a8,w9a9,w4a4", multirun=True)
    assert (good.problem, also.problem) == (None, None)
    assert bad.problem is not None
    assert bad.overrides == ("bits=w9a9",)


def test_missing_value_is_named(tmp_path: Path) -> None:
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "mine.yaml").write_text("size: ???\n")
    (cell,) = cells("calib=mine", config_dir=str(tmp_path))
    assert cell.problem is not None
    assert is_about(cell.problem, "calib.size", "???")


def test_missing_value_is_named_under_a_debugger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OC_CAUSE", "1")  # what OmegaConf does by itself where a debugger or coverage traces
    test_missing_value_is_named(tmp_path)


def test_broken_yaml_is_a_problem_of_its_cell(tmp_path: Path) -> None:
    (tmp_path / "calib").mkdir()
    (tmp_path / "calib" / "mine.yaml").write_text("size: [1\n")
    (cell,) = cells("calib=mine", config_dir=str(tmp_path))
    assert cell.problem


def test_own_groups_from_a_weird_folder(tmp_path: Path) -> None:
    own = tmp_path / "it's my, conf [1]"
    (own / "method").mkdir(parents=True)
    (own / "method" / "mine.yaml").write_text("name: mine\n")
    (cell,) = cells("method=mine", "bits=w4a4", config_dir=str(own))
    assert cell.raw["method"] == {"name": "mine"}
    found = cells("method=glob(min*)", multirun=True, config_dir=str(own))
    assert [c.choices["method"] for c in found] == ["mine", "minmax"]


def test_config_dir_that_does_not_exist() -> None:
    with refuses(ConfigError, key="--config-dir", value="/no/such/folder"):
        cells(config_dir="/no/such/folder")


def test_sweep_outside_the_conf_folder(tmp_path: Path) -> None:
    """A primary config anywhere: found groups, mode, axes, and command line on top of them."""
    folder = tmp_path / "sweeps of mine"
    folder.mkdir()
    file = folder / "ablation.yaml"
    file.write_text(
        "defaults: [config, override /bits: w4a4, _self_]\n"
        "calib: {size: 48}\n"
        "sweep: {name: ablation, baseline: minmax}\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {method: 'minmax,mse', seed: '0,1'}}}\n"
    )
    primary = compose.load(file, ConfigPath.of(), ["seed=5,6,7", "bits.kinds.probs=8", "sweep.name=other"])
    assert primary.multirun
    assert primary.sweep == {"name": "other", "baseline": "minmax"}
    assert primary.swept == {"method": ["minmax", "mse"], "seed": ["5", "6", "7"]}
    found = list(compose.expand(primary))
    assert len(found) == 6
    assert found[0].raw["bits"] == {"weight": 4, "activation": 4, "kinds": {"probs": 8}}
    assert found[0].raw["calib"]["size"] == 48
    assert "sweep" not in found[0].raw
    assert found[0].choices["bits"] == "w4a4"


def test_own_searchpath_of_a_sweep_is_kept(tmp_path: Path) -> None:
    groups = tmp_path / "lab" / "method"
    groups.mkdir(parents=True)
    (groups / "labs_own.yaml").write_text("name: labs_own\n")
    file = tmp_path / "s.yaml"
    file.write_text(
        f"defaults: [config, override /method: labs_own, _self_]\nhydra: {{searchpath: ['file://{tmp_path}/lab']}}\n"
    )
    (cell,) = compose.expand(compose.load(file, ConfigPath.of(), multirun=True))
    assert cell.raw["method"] == {"name": "labs_own"}


def test_sweep_files_are_found_by_name_here_and_as_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sweep_file("demo") == shipped("sweeps") / "demo.yaml"
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "demo.yaml").write_text("defaults: [config]\n")
    assert sweep_file("demo") == tmp_path / "sweeps" / "demo.yaml"
    assert sweep_file("sweeps/demo.yaml") == tmp_path / "sweeps" / "demo.yaml"
    with refuses(ConfigError, key="sweep", value="demoo", valid=["demo"]):
        sweep_file("demoo")
    with refuses(ConfigError, key="sweep", value="other/demo.yaml", valid=["demo"]):
        sweep_file("other/demo.yaml")


def test_hydras_state_is_put_back() -> None:
    from hydra.core.global_hydra import GlobalHydra

    cells()
    assert not GlobalHydra.instance().is_initialized()


def test_options_are_composed_once_and_values_never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Composing through Hydra costs 90 ms, so that 2,000 configs must not each go through it."""
    composed = []
    original = session.Session.compose

    def counted(self: session.Session, overrides: list[str]) -> Any:
        composed.append(overrides)
        return original(self, overrides)

    monkeypatch.setattr(session.Session, "compose", counted)
    found = cells("method=minmax,mse", "bits=w8a8,w4a4", "seed=range(100)", multirun=True)
    assert len(found) == 400
    assert len(composed) == 1 + 3, "the file's sections; the first combination, another method, other bits"


@pytest.mark.parametrize(
    "overrides",
    [
        ("calib.size=32,64", "seed=range(2)"),
        ("bits.kinds.probs=8,4",),  # a key that the YAML does not have
        ("bits.kinds={probs:8}", "method=repq_vit"),  # a mapping is merged
        ("method.kinds.default.range=mse,percentile", "method=minmax,repq_vit"),
        ("data.mean=[0.1]",),
        ("calib.size='${seed}'", "seed=1,2"),
        ("model.fp_top1=null", "calib.size=???"),
        ("seed=true,1.5,'a b'",),
        ("calib.size.x=1",),
        ("method.steps.mine.do=calibrate",),
    ],
)
def test_the_short_way_sets_what_omegaconf_sets(overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    short = cells(*overrides, multirun=True)
    monkeypatch.setattr(composer, "_independent", lambda config: None)
    assert short == cells(*overrides, multirun=True)

"""What timm publishes of its tags' top-1."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import pytest
import timm
import yaml

from tests.fake_engine import result_of
from vitq.config import RunConfig
from vitq.job.measure import published_of, unlike_published
from vitq.published.tags import TagTop1, _table, published_top1
from vitq.report.accuracy_table import matrices
from vitq.report.runs_table import table
from vitq.report.wording import caption
from vitq.store import Store
from vitq.store.result import Result
from vitq.store.sweeps import SweepRecord

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"
DEIT = "deit_tiny_patch16_224.fb_in1k"
# Lines of timm's results/results-imagenet.csv at the commit that the table names.
SAMPLE = """\
model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation
beit_base_patch16_224.in22k_ft_in22k_in1k,224,85.238,14.762,97.654,2.346,86.53,0.900,bicubic
swinv2_tiny_window8_256.ms_in1k,256,81.824,18.176,95.988,4.012,28.35,0.900,bicubic
resnet50.a1_in1k,288,81.240,18.760,95.112,4.888,25.56,1.000,bicubic
eva02_tiny_patch14_336.mim_in22k_ft_in1k,336,80.648,19.352,95.520,4.480,5.76,1.000,bicubic
deit_tiny_patch16_224.fb_in1k,224,72.190,27.810,91.100,8.900,5.72,0.900,bicubic
"""


def config(**model: object) -> RunConfig:
    raw = {"model": {"name": DEIT, **model}, "data": {"name": "imagenet"}, "method": {"name": "fp32"}}
    parsed, problems = RunConfig.parse(raw)
    assert parsed is not None, problems
    return parsed


def test_tags_are_timms_and_figures_are_accuracies() -> None:
    assert len(_table()) > 400
    for tag, known in _table().items():
        assert timm.is_model(tag.partition(".")[0]), tag
        assert 40 < known.top1 < 95, tag
        assert 0.5 < known.crop < 1.2, tag


def test_its_script_takes_timms_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of transformers, as they stand in the table, with the commit."""
    script, source, out = (
        importlib.import_module("docs.published_top1"),
        tmp_path / "results.csv",
        tmp_path / "tags.csv",
    )
    source.write_text(SAMPLE)
    table = script.OUT.read_text().splitlines()
    monkeypatch.setattr(script, "OUT", out)
    script.main(str(source), table[1].partition(" at ")[2].partition(".")[0])
    made = out.read_text().splitlines()
    assert made[:3] == table[:3]
    assert len(made[3:]) == 4
    assert set(made[3:]) <= set(table[3:])


def test_names_that_are_known() -> None:
    assert published_top1(DEIT) == TagTop1(72.19, 224, 0.9, "bicubic")
    assert published_top1(f"hf-hub:timm/{DEIT}@{'0' * 40}") == published_top1(DEIT)
    assert published_top1("deit_tiny_patch16_224") is None
    assert published_top1("vit_small_patch14_dinov2.lvd142m") is None, "a backbone has no top-1"


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_the_shipped_configs_agree_with_it(name: str) -> None:
    """Papers crop DeiT otherwise."""
    plain = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    known = published_top1(str(plain["name"]))
    assert known is None or plain["fp_top1"] is None or abs(known.top1 - plain["fp_top1"]) < 0.4


def test_whose_figure_a_run_is_compared_with() -> None:
    known = published_of(config())
    assert known is not None
    assert known[0] == 72.19
    assert published_of(config(fp_top1=70.0)) == (70.0, "model.fp_top1")
    assert published_of(config(checkpoint="x.pth")) is None, "weights of the user's own"
    assert published_of(config(pretrained=False)) is None
    held_out = dataclasses.replace(config(), data=dataclasses.replace(config().data, held_out=5))
    assert published_of(held_out) is None
    assert published_of(dataclasses.replace(config(), task="features")) is None
    metrics = result_of(config(), "0" * 16).metrics.model_copy(update={"fp_top1": 60.0, "n_eval": 50000})
    warned = unlike_published(config(), metrics)
    assert warned is not None
    assert "72.19" in warned
    assert unlike_published(config(), metrics.model_copy(update={"fp_top1": 72.0})) is None


def test_it_is_kept_and_shown(tmp_path: Path) -> None:
    store, run = Store(tmp_path), config()
    run_dir = store.run("0" * 16)
    run_dir.write_config(run.to_dict())
    plain = result_of(run, "0" * 16)
    assert "published_top1" not in plain.to_json()
    run_dir.write_result(plain.model_copy(update={"published_top1": 72.19}))
    read = run_dir.read_result()
    assert isinstance(read, Result)
    assert read.published_top1 == 72.19
    store.write_sweep(SweepRecord(name="s", description="", signatures=["0" * 16]))
    (matrix,) = matrices(table(store, "s"))
    assert matrix.published == 72.19
    assert "published: 72.19 %" in caption(matrix)

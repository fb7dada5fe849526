"""What timm publishes of its tags' top-1."""

from __future__ import annotations

import dataclasses
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
from vitq.store.records import Result
from vitq.store.sweeps import SweepRecord

CONF = Path(__file__).resolve().parents[2] / "conf" / "model"
DEIT = "deit_tiny_patch16_224.fb_in1k"


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

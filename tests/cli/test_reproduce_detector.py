"""A paper's table on detectors with the network itself: from files as released to the page, nothing faked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.coco_folder import SIZES, write_coco
from tests.models.detection.released import release
from tests.models.detection.small import sharp
from vitq.cli.main import main
from vitq.store import RunDir, Store
from vitq.store.metrics import DetectionMetrics

MODEL = "mask_rcnn_swin_tiny"
SMALL = [
    "model.kwargs={embed_dim:8,depths:[2,2,2,2],num_heads:[1,2,2,4],pyramid:16,hidden:32}",
    "model.short_side=64", "model.long_side=96", "model.input_size=[64,96]", "data.num_classes=2",
]  # fmt: skip


def test_from_the_released_file_to_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITQ_CACHE_DIR", str(tmp_path / "cache"))
    write_coco(tmp_path / "coco")
    (tmp_path / "weights").mkdir()
    release(sharp(classes=2), tmp_path / "weights" / f"{MODEL}_patch4_window7.pth")
    words = ["reproduce", "ias_vit", "--model", MODEL, "--bits", "W4A4", "--checkpoints", "weights", "data.root=coco"]
    words += [*SMALL, "calib.size=2", "method.iterations=1", "tracker=none", "device=cpu", "--json"]
    assert main(words) == 0
    out = capsys.readouterr()
    said = json.loads(out.out)
    (full,), (row,) = said["full_precision"], said["figures"]
    assert (full["model"], full["images"]) == (MODEL, len(SIZES))
    assert (row["bits"], row["seeds"], row["ap_box"], row["ap_mask"]) == ("W4A4", 1, 37.5, 36.6)
    assert row["own"]["low"] <= row["own"]["loss"] <= row["own"]["high"]
    lines = out.err.splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith(f"{MODEL}: full precision AP box/mask"))
    assert first < next(n for n, line in enumerate(lines) if "ias_vit w4a4" in line and "started" in line)
    assert f"{len(SIZES)} images are scored, the paper's 5,000" in said["deviations"]
    assert "given: calib.size=2 (the paper: 1024)" in said["deviations"]

    store = Store("runs")
    runs = {name: store.run(name) for name in (row["reference"], *row["runs"])}
    assert [_metrics(run).n_eval for run in runs.values()] == [len(SIZES)] * 2
    quantized = store.run(row["runs"][0])
    assert (_metrics(quantized).ap_box, _metrics(quantized).fp_ap_box) == (row["box"]["ours"], full["box"]["ours"])
    sites = quantized.read_sites()
    assert set(sites.loc[sites["kind"] == "patch", "bits"]) == {8}
    assert set(sites.loc[sites["kind"] != "patch", "bits"]) == {4}
    assert len(quantized.read_predictions()["box"]) > 0
    page = (store.sweep_folder("reproduce_ias_vit_detection") / "reproduction.md").read_text()
    assert f"| {MODEL} | W4A4 | " in page


def _metrics(run: RunDir) -> DetectionMetrics:
    result = run.read_result()
    assert result is not None
    assert isinstance(result.metrics, DetectionMetrics)
    return result.metrics

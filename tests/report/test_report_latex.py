"""The table for a paper: its columns, its names, and that a real TeX sets it in two columns."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.conftest import correct, finish
from tests.report.test_report_detectors import _of as of_detector
from tests.report.test_report_detectors import found
from vitq import report
from vitq.config import RunConfig
from vitq.config.search_path import ConfigPath
from vitq.report import latex
from vitq.report.comparison import pairwise
from vitq.report.display_names import method_name, model_name
from vitq.store import Store, SweepRecord

Make = Callable[..., RunConfig]
Sweep = Callable[..., Store]

PAPER = r"""
\documentclass[twocolumn]{article}
\usepackage{array,booktabs,amssymb}
\begin{document}
%s
\end{document}
"""


def compiled(text: str, folder: Path) -> float:
    """Points of the widest overfull box; skipped where there is no TeX. Fails where TeX does not set the text."""
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    (folder / "paper.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    return max(map(float, re.findall(r"Overfull \\hbox \(([\d.]+)pt", done.stdout)), default=0.0)


def many_models(make_config: Make, make_sweep: Sweep) -> Store:
    models = ("vit_small_patch16_224.augreg_in21k_ft_in1k", "vit_base_patch16_224.x", "deit_tiny_patch16_224.fb_in1k",
              "deit_small_patch16_224.fb_in1k", "swin_small_patch4_window7_224.ms_in1k")  # fmt: skip
    return make_sweep(
        *(
            (make_config(method, bits, seed, model__name=model), wrong + seed)
            for model in models
            for method, wrong in (("fp32", 0), ("repq_vit", 30), ("ias_vit", 12), ("scale_predictor(ias_vit)", 13))
            for bits in (4, 3)
            for seed in ((0,) if method == "fp32" else (0, 1))
        )
    )


def ablation(make_config: Make, make_sweep: Sweep) -> Store:
    def steps(stage1: bool, probs: str) -> dict[str, object]:
        return {
            "method__steps": {"stage1": {"do": "reconstruct", "enabled": stage1}, "b": {"do": "calibrate"}},
            "method__kinds": {"default": {}, "probs": {"quantizer": probs}},
        }

    return make_sweep(
        *((make_config("ias_vit", 4, **steps(on, probs)), 9) for on in (True, False) for probs in ("sulq", "log2"))
    )


def test_one_table_over_models(make_config: Make, make_sweep: Sweep) -> None:
    text = latex.render(report.table(many_models(make_config, make_sweep), "demo"))
    assert text.count(r"\begin{tabular}") == 1
    assert "longtable" not in text
    head, full, first, *_ = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert head == r"W/A & Method & ViT-S & ViT-B & DeiT-T & DeiT-S & Swin-S \\"
    assert full.startswith("32/32 & Full precision & 98.00 & 98.00")
    assert first.startswith(r"4/4 & RepQ-ViT & 90.38 {\scriptsize$\pm$0.18}")
    assert text.count(r"\midrule") == 3, "below the head, full precision and the first bit-width"
    assert r"ScalePredictor (I\&S-ViT)" in text


def test_detectors_have_columns_for_boxes_and_masks(make_config: Make, tmp_path: Path) -> None:
    """Of each model, in a table without a classifier, whose task has one of its own."""
    store = Store(tmp_path / "runs")
    names = [
        found(
            store, make_config(method, bits, task="segmentation", model__name=model), ap,
            fidelity_box=ap + 30, fidelity_mask=ap + 20,
        )
        for model in ("mask_rcnn", "cascade_mask_rcnn")
        for method, bits, ap in (("minmax", 8, 59.0), ("minmax", 4, 40.0), ("repq_vit", 4, 55.0))
    ]  # fmt: skip
    names.append(finish(store, make_config("minmax", 4), correct(2)))
    store.write_sweep(SweepRecord(name="both", signatures=names))
    text = report.build(store, "both", ["latex"])["latex"].read_text()
    lines = text.splitlines()
    heads = [line for line in lines if line.startswith(("W/A &", "Method &"))]
    assert heads == [
        r"W/A & Method & AP box & AP mask & AP box & AP mask \\", r"W/A & Method & box & mask & box & mask \\",
        r"Method & W4A4 \\",
    ]  # fmt: skip
    for head in heads[:2]:
        assert lines[lines.index(head) - 2 : lines.index(head)] == [
            r" &  & \multicolumn{2}{c}{Mask R-CNN} & \multicolumn{2}{c}{Cascade Mask R-CNN} \\",
            r"\cmidrule(lr){3-4}\cmidrule(lr){5-6}",
        ]
    assert r"32/32 & Full precision & 61.00 & 60.00 & 61.00 & 60.00 \\" in text
    assert r"4/4 & Min-max & 41.00 & 40.00 & 41.00 & 40.00 \\" in text
    assert r"4/4 & Min-max & 70.00 & 60.00 & 70.00 & 60.00 \\" in text
    assert r" & RepQ-ViT & \textbf{85.00} & \textbf{75.00} & \textbf{85.00} & \textbf{75.00} \\" in text
    captions = re.findall(r"\\caption\{(.*? \(\\%\))", text)
    assert captions == [r"AP box and AP mask (\%)", r"Fidelity (\%)", r"vit\_digits: top-1 accuracy (\%)"]
    assert re.findall(r"\\label\{(.*)\}", text) == ["tab:vitq", "tab:vitq-fidelity", "tab:vitq"]
    assert compiled(PAPER % text, tmp_path) <= 2.0


def test_fidelity_of_four_detectors_over_seeds_fits_two_columns(make_config: Make, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    names = [
        found(
            store, make_config(method, 4, seed, **of_detector(f"{kind}rcnn_swin_{size}")), 40.0 + seed,
            fidelity_box=80.0 + seed, fidelity_mask=78.0 - seed,
        )
        for kind in ("mask_", "cascade_mask_") for size in ("tiny", "small")
        for method in ("repq_vit", "ias_vit") for seed in (0, 1)
    ]  # fmt: skip
    store.write_sweep(SweepRecord(name="four", signatures=names))
    text = latex.render(report.table(store, "four"))
    fidelity = text.partition("tab:vitq-fidelity")[2]
    assert re.findall(r"\\label\{tab:vitq(.*)\}", text) == ["", "-2", "-fidelity", "-fidelity-2"]
    titles = [re.findall(r"\\multicolumn\{2\}\{c\}\{(.*?)\}", line) for line in text.splitlines() if "multi" in line]
    swins = [[f"{kind}Mask R-CNN Swin-{size}" for size in "TS"] for kind in ("", "Cascade ")]
    assert titles == swins * 2
    both = r"\textbf{80.50} {\scriptsize$\pm$0.71} & \textbf{77.50} {\scriptsize$\pm$0.71}"
    assert fidelity.count(both) == 8
    assert compiled(PAPER % text, tmp_path) <= 2.0


def test_one_detector_is_named_by_the_caption(make_config: Make, tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    detector = {"task": "segmentation", "model__name": "mask_rcnn"}
    names = [found(store, make_config(method, 4, **detector), ap) for method, ap in (("minmax", 40.0), ("erq", 55.0))]
    store.write_sweep(SweepRecord(name="one", signatures=names))
    text = latex.render(report.table(store, "one"))
    assert r"\caption{Mask R-CNN: AP box and AP mask (\%) on 50 images; " in text
    assert "W/A & Method & AP box & AP mask" in text
    assert "multicolumn" not in text
    assert compiled(PAPER % text, tmp_path) <= 2.0


def test_ablations_have_marks(make_config: Make, make_sweep: Sweep) -> None:
    text = latex.render(report.table(ablation(make_config, make_sweep), "demo"))
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert lines[0] == r"Method & probs quantizer & stage1 & W4A4 \\"
    assert r"I\&S-ViT & sulq & \checkmark & \textbf{95.75} \\" in lines
    assert r"I\&S-ViT & log2 & $\times$ & \textbf{95.75} \\" in lines


@pytest.mark.parametrize("which", [many_models, ablation])
def test_it_fits_two_columns(
    make_config: Make, make_sweep: Sweep, tmp_path: Path, which: Callable[[Make, Sweep], Store]
) -> None:
    df = report.table(which(make_config, make_sweep), "demo")
    assert compiled(PAPER % latex.render(df), tmp_path) <= 2.0


def test_a_sweep_with_holes_and_long_names_fits(
    seeded: Store, tmp_path: Path, make_config: Make, make_sweep: Sweep
) -> None:
    assert compiled(PAPER % latex.render(report.table(seeded, "demo")), tmp_path) <= 2.0

    def variant(name: str, option: str, value: object) -> tuple[RunConfig, int]:
        return make_config(name, 4, method__steps={"s": {"do": "x", option: value}}), 3

    store = make_sweep(
        variant("my_lab_method_with_a_long_name_and_more", "an_option", "a_rather_long_value_of_an_option"),
        variant("my_lab_method_with_a_long_name_and_more", "an_option", "another_rather_long_value_of_it"),
        variant("another_method", "option", 1),
        variant("another_method", "option", 2),
    )
    assert compiled(PAPER % latex.render(report.table(store, "demo")), tmp_path) <= 2.0


def test_all_pairs_are_a_format_of_their_own(seeded: Store, tmp_path: Path) -> None:
    text = latex.pairs_table(pairwise(seeded, report.table(seeded, "demo")))
    assert text.count(r"\begin{longtable}") == 1
    paper = PAPER.replace("[twocolumn]", "[landscape]").replace(
        "amssymb}", "amssymb,longtable}\\usepackage[margin=1cm]{geometry}"
    )
    assert compiled(paper % text, tmp_path) <= 2.0
    files = report.build(seeded, "demo", ["latex", "latex-pairs"])
    assert {kind: path.name for kind, path in files.items()} == {"latex": "report.tex", "latex-pairs": "pairs.tex"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("repq_vit", "RepQ-ViT"),
        ("scale_predictor(qdrop)", "ScalePredictor (QDrop)"),
        ("qdrop_tuned_deit_tiny_w3a3", "QDrop, tuned"),
        ("mine", "mine"),
    ],
)
def test_names_of_methods(name: str, shown: str) -> None:
    assert method_name(name) == shown


def test_every_shipped_recipe_has_a_name_for_papers() -> None:
    assert [name for name in ConfigPath.of().files("method") if method_name(name) == name] == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("deit_tiny_patch16_224.fb_in1k", "DeiT-T"),
        ("swin_base_patch4_window7_224.ms_in22k_ft_in1k", "Swin-B"),
        ("vit_large", "ViT-L"),
        ("deit3_small_patch16_224.x", "DeiT III-S"),
        ("vit_digits", "vit_digits"),
        ("cascade_mask_rcnn", "Cascade Mask R-CNN"),
        ("cascade_mask_rcnn_swin_small", "Cascade Mask R-CNN Swin-S"),
        ("mask_rcnn_swin_tiny", "Mask R-CNN Swin-T"),
        ("yolos_tiny", "YOLOS-T"),
        ("mask_rcnn_digits", "mask_rcnn_digits"),
    ],
)
def test_names_of_models(name: str, shown: str) -> None:
    assert model_name(name) == shown

"""The figures are those of the research notes: a list copied by hand, and every table of the notes where they lie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitq.published import Figures

# method, variant, model, bits, metric, source, value: copied by hand, table by table.
FROZEN = [
    ("ias_vit", None, "vit_base", "W3A3", "top1", "ias_vit", 63.77),
    ("qdrop", None, "vit_base", "W3A3", "top1", "ias_vit", 8.00),
    ("qdrop", None, "vit_base", "W3A3", "top1", "aphq_vit", 73.79),
    ("qdrop", None, "vit_base", "W3A3", "top1", "glf_q", 74.75),
    ("pd_quant", None, "deit_base", "W3A3", "top1", "ias_vit", 0.94),
    ("brecq", None, "swin_base", "W3A3", "top1", "ias_vit", 1.7),
    ("repq_vit", None, "vit_small", "W4A4", "top1", "repq_vit", 65.05),
    ("repq_vit", None, "swin_base", "W4A4", "top1", "ias_vit", 78.32),
    ("fq_vit", None, "vit_base", "W6A6", "top1", "ias_vit", 0.10),
    ("noisyquant", "ptq4vit", "deit_small", "W6A6", "top1", "ias_vit", 77.43),
    ("ranking_vit", None, "vit_base", "W6A6", "top1", "ias_vit", 75.26),
    ("bit_shrinking", None, "vit_small", "W6A6", "top1", "ias_vit", 80.44),
    ("tsptq_vit", None, "vit_large", "W4A4", "top1", "gmpq_te", 77.64),
    ("mptq_vit", None, "swin_tiny", "W6A6", "top1", "gmpq_te", 80.67),
    ("gmpq_te", None, "swin_tiny", "MP4", "top1", "gmpq_te", 73.90),
    ("tsptq_vit", None, "deit_tiny", "W8A8", "top1", "coqmoe", 71.87),
    ("aocq", None, "deit_base", "W8A8", "top1", "aocq", 81.57),
    ("adalog", "calibration only", "deit_tiny", "W3A3", "top1", "adalog", 31.56),
    ("adalog", "reconstruction", "swin_base", "W4A4", "top1", "adalog", 83.82),
    ("adalog", None, "vit_base", "W6A6", "top1", "adalog", 84.80),
    ("aphq_vit", None, "deit_small", "W3A3", "top1", "aphq_vit", 68.76),
    ("aphq_vit", "without MLP reconstruction", "vit_base", "W3A3", "top1", "aphq_vit", 76.05),
    ("oasq", None, "deit_small", "W4A4", "top1", "aphq_vit", 76.00),
    ("oasq", None, "deit_small", "W4A4", "top1", "erq", 37.15),
    ("fima_q", None, "swin_base", "W4A4", "top1", "fima_q", 83.60),
    ("ls_vit", None, "vit_small", "W2A4", "top1", "ls_vit", 58.48),
    ("fima_q", None, "swin_small", "W2A3", "top1", "ls_vit", 59.57),
    ("glf_q", None, "deit_tiny", "W4A4", "top1", "glf_q", 67.37),
    ("fima_q", "calibrated on SUN397", "deit_small", "W3A3", "top1", "glf_q", 36.03),
    ("glf_q", "without rotation", "mean_of_seven", "W3A3", "top1", "glf_q", 70.74),
    ("erq", "TPAMI 2025", "swin_small", "W3A4", "top1", "erq", 78.12),
    ("erq", "ICML 2024", "vit_small", "W4A4", "top1", "unnamed_tables", 68.91),
    ("uq_vit", None, "swin_base", "W6A6", "top1", "uq_vit", 84.99),
    ("ptq4vit", None, "deit_small", "W4A4", "top1", "bias_compensation", 24.05),
    ("easyquant", None, "vit_small", "W8A8", "top1", "bias_compensation", 80.75),
    ("igq_vit", "follow-up", "vit_base", "W4A4", "top1", "cvlab", 76.93),
    ("nncf", "with SmoothQuant", "swin_base", "W8A8", "top1", "nncf", 83.57),
    ("clamp_vit", None, "swin_small", "W5.1A6.3", "top1", "clamp_vit", 82.86),
    ("qwt", "on repq_vit", "vit_base", "W4A4", "top1", "qwt", 76.3),
    ("brevitas", "best of a sweep", "torchvision_vit_b_32", "W4A8", "top1", "brevitas", 75.528),
    ("bit_shrinking", None, "swin_small", "W6A6", "top1", "ias_vit", 82.44),
    ("ptq4vit", None, "mask_rcnn_swin_tiny", "W4A4", "ap_box", "ias_vit", 6.9),
    ("brecq", None, "mask_rcnn_swin_tiny", "W4A4", "ap_mask", "ias_vit", 27.6),
    ("repq_vit", None, "cascade_mask_rcnn_swin_small", "W6A6", "ap_mask", "repq_vit", 44.6),
    ("glf_q", None, "cascade_mask_rcnn_swin_small", "W4A4", "ap_box", "coco_tables", 50.6),
    ("fima_q", None, "swin_base", "W3A3", "minutes", "glf_q", 135),
]


@pytest.mark.parametrize(("method", "variant", "model", "bits", "metric", "source", "value"), FROZEN)
def test_frozen_cells(
    method: str, variant: str | None, model: str, bits: str, metric: str, source: str, value: float
) -> None:
    where = {"variant": variant, "model": model, "bits": bits, "metric": metric, "source": source}
    cells = [
        cell
        for cell in Figures.load().cells
        if cell.method == method and all(getattr(cell, name) == wanted for name, wanted in where.items())
    ]
    assert value in [cell.value for cell in cells]


RESEARCH = Path(__file__).resolve().parents[3] / "shared" / "research"
NOTES = ("papers.md", "leaders.md", "detection.md")
needs_notes = pytest.mark.skipif(
    not all((RESEARCH / name).is_file() for name in NOTES), reason=f"the research notes are not at {RESEARCH}"
)

MODEL = {
    "ViT-S": "vit_small", "ViT-B": "vit_base", "ViT-L": "vit_large", "DeiT-T": "deit_tiny", "DeiT-S": "deit_small",
    "DeiT-B": "deit_base", "Swin-T": "swin_tiny", "Swin-S": "swin_small", "Swin-B": "swin_base",
}  # fmt: skip
SEVEN = [MODEL[name] for name in ("ViT-S", "ViT-B", "DeiT-T", "DeiT-S", "DeiT-B", "Swin-S", "Swin-B")]
COCO = ["mask_rcnn_swin_tiny", "mask_rcnn_swin_small", "cascade_mask_rcnn_swin_tiny", "cascade_mask_rcnn_swin_small"]

# Beginning of a name in the notes → vitq's method; the longest that fits counts.
METHOD = {
    "PTQ4ViT": "ptq4vit", "PTQ4ViT+BC": "bias_compensation", "BRECQ": "brecq", "QDrop": "qdrop", "PD-Quant": "pd_quant",
    "RepQ": "repq_vit", "I&S": "ias_vit", "FQ": "fq_vit", "APQ": "apq_vit", "PSAQ-ViT": "psaq_vit", "OAS": "oasq",
    "Ranking-ViT": "ranking_vit", "EasyQuant": "easyquant", "NoisyQuant": "noisyquant",
    "Bit-shrinking": "bit_shrinking",
    "TSPTQ-ViT": "tsptq_vit", "SQ-b+OPT-m": "mptq_vit", "MPTQ-ViT": "mptq_vit", "LRP-QViT": "lrp_qvit",
    "GMPQ-TE": "gmpq_te", "AdaLog": "adalog", "DopQ": "dopq_vit", "APHQ": "aphq_vit", "FIMA": "fima_q",
    "LS-ViT": "ls_vit", "GLF-Q": "glf_q", "AIQViT": "aiqvit", "UQ-ViT": "uq_vit", "GPTQ": "gptq",
    "AdaRound": "adaround", "ERQ": "erq", "IGQ": "igq_vit", "SynFIM-Q": "synfim_q", "Base PTQ": "base_ptq",
    "LSQ QAT": "lsq",
}  # fmt: skip
# Rows whose name is no method: full precision, and rows of two methods, each with its cells.
NO_METHOD = ("FP", "best without gradients: AdaLog / ERQ TPAMI", "QDrop / APHQ", "I&S / ERQ / Joint PTQ")
NUMBER = r"(?<![\w.±])\d*\.?\d+(?:±\d*\.\d+)?"

Printed = tuple[str, str, str | None, str, float]


def method_of(name: str) -> str:
    """`**W4A4 best** GLF-Q` → glf_q."""
    bare = re.sub(r"^(W\dA\d )?(2nd: |best without gradients: |best )?", "", name.replace("*", "")).strip()
    return METHOD[max((start for start in METHOD if bare.startswith(start)), key=len)]


def bits_of(text: str) -> str | None:
    """`3/3`, `### W3A3`, `MP~6` → bits."""
    if found := re.search(r"W\dA\d", text):
        return found[0]
    if found := re.fullmatch(r"(\d)/(\d)", text):
        return f"W{found[1]}A{found[2]}"
    found = re.search(r"MP~(\d)", text)
    return f"MP{found[1]}" if found else None


def tables(text: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(heading above, columns, rows) of each markdown table that has models as columns."""
    heading = ""
    head: list[str] = []
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not head:
                head = cells
            elif not set(line) <= set("|- "):
                rows.append(cells)
            continue
        if head and "DeiT-S" in head:
            yield heading, head, rows
        head, rows = [], []
        heading = line if line.startswith("#") else heading


def printed_in_tables(text: str) -> Iterator[Printed]:
    """(method, model, bits, metric, value) of all numbers of the notes' tables."""
    for heading, head, rows in tables(text):
        minutes = "Wall-clock" in heading
        bits = bits_of(heading)
        for row in rows:
            name = row[0].replace("*", "")
            if name in NO_METHOD or "NOT FOUND" in " ".join(row):
                continue
            bits = bits_of(name) or next((b for cell in row[1:2] if (b := bits_of(cell))), None) or bits
            for column, cell in zip(head, row, strict=False):
                if column in MODEL:
                    for number in re.findall(NUMBER, cell):
                        metric = "minutes" if minutes else "top1"
                        yield method_of(name), MODEL[column], "W3A3" if minutes else bits, metric, float(number)


def printed_in_lists(text: str, bits: str, models: list[str], metrics: list[str]) -> Iterator[Printed]:
    """The same of `NAME a/b/c…` separated by `;` or ` · `: one number for each model, or `box/mask` for each."""
    for entry in re.split(r"; | · ", text):
        name = re.match(r"[^\d(*]+", entry.replace("**", "").replace("PTQ4ViT", "PTQ@ViT"))
        assert name is not None, entry
        method = name[0].replace("@", "4").strip()
        rest = entry.replace("**", "").replace("PTQ4ViT", "")
        if metrics == ["top1"]:
            groups = [re.split("/", found[0]) for found in [re.search(r"[\d.-]+(?:/[\d.-]+){4,6}", rest)] if found]
            for group in groups:
                for model, number in zip(models, group, strict=False):
                    if number != "-":
                        yield method_of(method), model, bits, "top1", float(number)
        else:
            pairs = re.findall(r"(\d+\.\d)/(\d+\.\d)", rest.split("(")[0])
            for model, pair in zip(models, pairs, strict=False):
                for metric, number in zip(metrics, pair, strict=True):
                    yield method_of(method), model, bits, metric, float(number)


def between(text: str, start: str, end: str) -> str:
    """What lies between two words of the notes."""
    assert start in text, start
    return text.split(start, 1)[1].split(end, 1)[0]


def printed() -> list[Printed]:
    """Every number of the notes' tables and lists that is a published cell."""
    papers, leaders, detection = [(RESEARCH / name).read_text() for name in NOTES]
    found = [*printed_in_tables(papers), *printed_in_tables(leaders)]
    w3a4 = between(papers, "FQ .10 x7; PTQ4ViT <=0.64; ", " (order ViT-S")
    found += printed_in_lists(w3a4, "W3A4", SEVEN, ["top1"])
    w8a8 = between(papers, "### W8A8\n", " [S bias-compensation README")
    found += printed_in_lists(w8a8, "W8A8", SEVEN, ["top1"])
    for text, start, end in ((papers, "51.9/45.0; ", ". RepQ W6A6"), (detection, "**W4A4**: ", ". **W6A6**")):
        found += printed_in_lists(between(text, start, end), "W4A4", COCO, ["ap_box", "ap_mask"])
    found += printed_in_lists(between(detection, "**W6A6** ", ". No paper"), "W6A6", COCO, ["ap_box", "ap_mask"])
    return found


@needs_notes
def test_all_tables_of_the_notes_are_in_the_figures() -> None:
    cells = {(cell.method, cell.model, cell.bits, cell.metric, cell.value) for cell in Figures.load().cells}
    figures = printed()
    assert len(set(figures)) > 700
    assert [figure for figure in figures if figure not in cells] == []


@needs_notes
def test_rows_are_printed_so_in_the_notes() -> None:
    """Values of a row in the order of its columns: a value in the wrong column is a row that nobody printed."""
    text = "\n".join((RESEARCH / name).read_text() for name in NOTES)
    # `81.0` and `81.00`, `.10` and `0.10`, are the same; gaps are left out on both sides.
    numbers = [float(number) for number in re.findall(r"\d*\.?\d+", re.sub(r"±\d*\.\d+", "", text))]
    # Several rows may share a line: `72.75 / 77.25` for each model, up to four.
    known = {
        tuple(numbers[i : i + step * width : step])
        for step in (1, 2, 3, 4)
        for width in (5, 6, 7, 8, 9)
        for i in range(len(numbers))
    }
    rows = [
        (name, row, [float(str(value).split("±")[0]) for value in values if value is not None])
        for name, source in Figures.load().sources.items()
        for table in source.tables
        for row, values in table.rows.items()
        if table.metric == "top1"
    ]
    long = [(name, row, values) for name, row, values in rows if len(values) >= 5]
    assert len(long) > 90
    # PTQ4ViT's README has no DeiT-T: the notes' row has that of another paper between its figures.
    assert [(name, row) for name, row, values in long if tuple(values) not in known] == [("ptq4vit", "ptq4vit")]


@needs_notes
def test_every_figure_is_in_the_notes() -> None:
    text = "\n".join((RESEARCH / name).read_text() for name in NOTES)
    numbers = {float(number) for number in re.findall(r"\d*\.?\d+", text)}
    assert [cell for cell in Figures.load().cells if cell.metric != "minutes" and cell.value not in numbers] == []

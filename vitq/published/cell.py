"""One published number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# In the order of tables. COCO's detectors are those of Swin-Transformer-Object-Detection; mean_of_seven: of the seven
# models that most papers have (vit_small … swin_base without swin_tiny).
MODELS = (
    "vit_small", "vit_base", "vit_large", "deit_tiny", "deit_small", "deit_base", "swin_tiny", "swin_small",
    "swin_base", "deit3_small", "torchvision_vit_b_16", "torchvision_vit_b_32", "vit_unnamed", "vssd", "mean_of_seven",
    "mask_rcnn_swin_tiny", "mask_rcnn_swin_small", "cascade_mask_rcnn_swin_tiny", "cascade_mask_rcnn_swin_small",
)  # fmt: skip

# Metric → unit and number of decimals that papers print.
METRICS = {
    "top1": ("top-1, %", 2),
    "ap_box": ("COCO box AP", 1),
    "ap_mask": ("COCO mask AP", 1),
    "minutes": ("minutes to quantize", 0),
}

# W4A4, W8 (activations not stated), W4.9A6.2 (a mean), MP6 (mixed precision of about 6 bits), FP.
BITS = r"FP|MP\d|W\d+(\.\d+)?(A\d+(\.\d+)?)?"

TAGS = {
    "P": "the paper's full text",
    "S": "the official repository",
    "C": "read in the code",
    "T": "copied from another paper's table",
    "A": "the abstract alone",
    "3": "third party, unverified",
    "I": "our inference",
}


def task_of(model: str) -> str:
    """`detection` for COCO's detectors, else `classification`."""
    return "detection" if model.startswith(("mask_rcnn_", "cascade_")) else "classification"


def bits_order(bits: str | None) -> tuple[int, tuple[float, ...], str]:
    """Sort key: full precision, W8A8 down to W2A3, mixed precision, none."""
    name = bits or ""
    rank = 0 if name == "FP" else 1 if name.startswith("W") else 2 if name else 3
    return rank, tuple(-float(number) for number in re.findall(r"\d+(?:\.\d+)?", name)), name


@dataclass(frozen=True)
class Cell:
    """A number of a source's table.

    source: id of the source that printed it, as is `run_by`, whose authors obtained it (None: not stated).
    variant: what distinguishes it from the method as published (None: nothing does).
    std: standard deviation over seeds. decimals: as printed. full_precision: in the metric's unit, from
    full_precision_source: `table` (the source's own), `union` (the row that our notes give for all sources of a table).
    facts: known facts of its protocol, by field of `Protocol`.
    """

    source: str
    table: str | None
    tags: tuple[str, ...]
    method: str
    variant: str | None
    task: str
    model: str
    bits: str | None
    metric: str
    value: float
    std: float | None
    decimals: int
    full_precision: float | None
    full_precision_source: str | None
    run_by: str | None
    note: str | None
    facts: Mapping[str, int | float | str]

    @property
    def baseline(self) -> tuple[str, str]:
        """Method and variant: what other rows must share to be the same baseline."""
        return self.method, self.variant or ""

    @property
    def name(self) -> str:
        """`adalog`, `adalog (reconstruction)`."""
        return f"{self.method} ({self.variant})" if self.variant else self.method

    @property
    def text(self) -> str:
        """The number as printed: `67.34±0.12`."""
        spread = "" if self.std is None else f"±{self.std:.{self.decimals}f}"
        return f"{self.value:.{self.decimals}f}{spread}"

    @property
    def label(self) -> str:
        """Who ran it, and where it was printed if that is another source: `ias_vit`, `fima_q in glf_q`."""
        return self.source if self.run_by == self.source else f"{self.run_by or 'unstated'} in {self.source}"

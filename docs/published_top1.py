"""Writes vitq/published/tags.csv: what timm publishes of its transformers' top-1.

    python -m docs.published_top1 results-imagenet.csv COMMIT

The CSV is `results/results-imagenet.csv` of the repository huggingface/pytorch-image-models at that commit. Facts alone
are taken: tag, top-1, and the size, crop and interpolation with which it was measured.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from docs.models import names

OUT = Path(__file__).resolve().parents[1] / "vitq" / "published" / "tags.csv"
HEAD = """\
# Top-1 (%, ImageNet-1k validation) of timm's pretrained transformers: huggingface/pytorch-image-models,
# results/results-imagenet.csv at {commit}. Written by docs/published_top1.py.
tag,top1,size,crop,interpolation
"""


def main(source: str, commit: str) -> None:
    known = set(names())
    with open(source, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"].partition(".")[0] in known]
    lines = [
        f"{row['model']},{row['top1']},{row['img_size']},{float(row['crop_pct']):g},{row['interpolation']}"
        for row in sorted(rows, key=lambda row: row["model"])
    ]
    OUT.write_text(HEAD.format(commit=commit) + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} tags")


if __name__ == "__main__":
    main(*sys.argv[1:])

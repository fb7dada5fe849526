"""`vitq published`: what the literature says."""

from __future__ import annotations

import argparse

from vitq.cli import options

EXAMPLES = """\
  vitq published                                       how much there is, and where figures of one baseline differ most
  vitq published qdrop --model vit_base --bits w3a3    all published figures, their spread, and why they differ
  vitq published --model deit_tiny --bits w4a4         all methods
  vitq published repq_vit --task detection --format csv
"""

FORMATS = ("text", "csv", "latex", "json")
TASKS = ("classification", "detection")


def parser() -> argparse.ArgumentParser:
    text = "Published figures of PTQ methods, with sources, spread, and why they differ."
    parser = options.parser("published", text, EXAMPLES)
    parser.add_argument("method", nargs="?", metavar="METHOD", help="vitq's name of a method; without: all of them")
    parser.add_argument("--model", metavar="M", help="vitq's name of a model, e.g. vit_base")
    parser.add_argument("--bits", metavar="W4A4", help="bit-width, e.g. W3A3; MP4 and MP6: mixed precision")
    parser.add_argument("--task", choices=TASKS, help="ImageNet top-1, or COCO average precision")
    parser.add_argument("--format", choices=FORMATS, default="text", help="csv and latex have the figures alone")
    return parser


def main(args: argparse.Namespace) -> int:
    """Print. Raises VitqError for a name that no source has."""
    from vitq.published import Figures, render

    figures = Figures.load()
    filters = (args.method, args.model, args.bits, args.task)
    if filters == (None,) * 4:
        print(render.overview(figures, args.format))
        return 0
    chosen = figures.select(*filters)
    claims = [(source, claim) for source, claim in figures.claims if claim.method == args.method]
    print(render.figures(chosen, claims, args.format))
    return 0

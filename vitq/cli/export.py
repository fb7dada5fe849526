"""`vitq export`: the model of a finished run as a file to deploy."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from vitq.cli import options

EXAMPLES = """\
  vitq export 3f09                                  runs/3f09…/model.safetensors: bit-packed codes, scales, recipe
  vitq export 3f09 --compress                       the same, 13 to 21 % smaller, in runs/3f09…/deploy/
  vitq export 3f09 --output deit_tiny_w4.safetensors
  vitq export 3f09 --format onnx                    integers in QuantizeLinear/DequantizeLinear pairs, any batch size
  vitq export 3f09 --format onnx --int8-weights     weights of 4 bits and less in int8: opset 20, TensorRT
  vitq export 3f09 --format openvino                the same as an OpenVINO graph
  vitq export 3f09 --json                           sizes against float32 and float16
  vitq export 3f09 data.root=/new/imagenet model.checkpoint=/new/w.safetensors      images and weights that were moved
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser(
        "export",
        "Write the model of a finished run as a file to deploy. A run that did not keep its model (keep_model=true) is "
        "repeated once, and checked against its record image by image.",
        EXAMPLES,
    )
    options.add(parser, "signature")
    parser.add_argument("--format", choices=("packed", "onnx", "openvino"), default="packed", help="default: packed")
    parser.add_argument("--compress", action="store_true", help="a packed checkpoint in its compressed, lossless form")
    parser.add_argument(
        "--int8-weights", action="store_true", help="ONNX: weights of 4 bits and less in int8, not in int4"
    )
    parser.add_argument("--output", metavar="FILE", type=Path, help="default: a file in the run's folder")
    return options.add(parser, "paths", "--runs-dir", json="path and sizes")


def main(args: argparse.Namespace) -> int:
    """Export. Raises VitqError for a run that cannot be exported."""
    from vitq.job.export import export
    from vitq.planning import paths
    from vitq.progress import Progress
    from vitq.store import Store

    run = Store(args.runs_dir).find(args.signature)
    paths.move(run.dir, args.paths)
    with redirect_stdout(sys.stderr):  # libraries that print must not reach the reader of the JSON
        done = export(run.dir, args.format, args.output, Progress(), args.compress, not args.int8_weights)
    if args.json:
        print(json.dumps(done, indent=2))
    else:
        for name, value in done.items():
            if isinstance(value, dict):
                print(name, *(f"  {key}: {why}" for key, why in value.items()), sep="\n")
            else:
                print(f"{name:<15} {value}")
    return 0

"""`vitq export`: the model of a finished run as a file to deploy."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from vitq.cli import options

EXAMPLES = """\
  vitq export 3f09                                  runs/3f09…/model.safetensors: bit-packed codes, scales, recipe
  vitq export 3f09 --compress                       the same, 13 to 21 % smaller, in runs/3f09…/deploy/
  vitq export 3f09 --output deit_tiny_w4.safetensors
  vitq export 3f09 --format onnx                    integers in QuantizeLinear/DequantizeLinear pairs, any batch size
  vitq export 3f09 --format onnx --int8-weights     weights of 4 bits and less in int8: opset 20, TensorRT
  vitq export 3f09 --format openvino                the same as an OpenVINO graph
  vitq export 3f09 --format onnx --size 800x1216    a detector's backbone with its pyramid; the heads stay in vitq
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
    return options.add(parser, "--size", "paths", "--runs-dir", json="path and sizes")


def main(args: argparse.Namespace) -> int:
    """Export. Raises VitqError for a run that cannot be exported."""
    from vitq.cli.output import console
    from vitq.job.export import export
    from vitq.planning import paths
    from vitq.planning.display import make
    from vitq.planning.plan import PlannedRun
    from vitq.progress import Progress
    from vitq.store import Store

    run = Store(args.runs_dir).find(args.signature)
    paths.move(run.dir, args.paths)
    # Libraries that print must not reach the reader of the JSON.
    with redirect_stdout(sys.stderr), make(console(stderr=True), run.signature, 1) as show:
        # Making the model again takes as long as the run did.
        anew = not run.dir.model_path.exists() and run.is_done
        planned = PlannedRun(run.signature, run.config, f"{run.label}: making its model again", (), done=True)
        progress = show.running(planned) if anew else Progress()
        done = export(run.dir, args.format, args.output, progress, args.compress, not args.int8_weights, args.size)
    print(json.dumps(done, indent=2) if args.json else "\n".join(sentences(done)))
    return 0


def sentences(done: Mapping[str, Any]) -> Iterator[str]:
    """What was written, for people."""
    what = {"packed": "packed checkpoint", "onnx": "ONNX model", "openvino": "OpenVINO model"}[done["format"]]
    yield f"{what} written to {done['path']}"
    yield f"{_mb(done)}, {_times(done['float32_ratio'])} float32 and {_times(done['float16_ratio'])} float16"
    for form, sizes in done.get("forms", {}).items():
        yield f"  {form}: {_mb(sizes)}, {_times(sizes['float32_ratio'])} float32"
    if "module" in done:
        yield f"{done['module']} alone, images {list(done['image'])}, outputs {', '.join(done['outputs'])}"
    if "int8_products" in done:
        left = done["float_products"]
        yield f"{done['int8_products']} matrix products run in int8, {len(left)} in floating point{':' if left else ''}"
        yield from _reasons(left)
    if "int4_weights" in done:
        left = done["int8_weights"]
        rest = f"{len(left)} of 4 bits and less in 8{':' if left else ''}"
        yield f"{done['int4_weights']} weights are stored in 4 bits, {rest}"
        yield from _reasons(left)


def _mb(sizes: Mapping[str, Any]) -> str:
    return f"{sizes['bytes'] / 1e6:.3f} MB"


def _times(ratio: float) -> str:
    return f"{ratio:.2f} times smaller than" if ratio >= 1 else f"{1 / ratio:.2f} times larger than"


def _reasons(names: Mapping[str, str]) -> Iterator[str]:
    """One line for each reason, with the first of the names that it is of."""
    by_reason: dict[str, list[str]] = {}
    for name, why in names.items():
        by_reason.setdefault(why, []).append(name)
    for why, members in by_reason.items():
        more = f" and {len(members) - 1} more" if len(members) > 1 else ""
        yield f"  {members[0]}{more}: {why}"

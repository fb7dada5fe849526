"""`vitq bench`: speed and accuracy of a run's integer model beside its float model."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from typing import Any

from vitq.cli import options

EXAMPLES = """\
  vitq bench 3f09                              OpenVINO: float32, bf16, integer, integer with the rest in bf16
  vitq bench 3f09 --threads 2 --json           for scripts: `speedup` is integer ÷ float32 throughput at batch 32
  vitq bench 3f09 --runtime onnxruntime
  vitq bench 3f09 --size 800x1216              a detector: its backbone with the pyramid, images padded to this size
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser(
        "bench",
        "Latency (batch 1), throughput (batch 32) and accuracy of a finished run's model in float and in integers, in "
        "one process and in turns. Of a detector: latency of its backbone with the pyramid, and how far that is from "
        "the simulated one. Nothing else should run on the machine.",
        EXAMPLES,
    )
    options.add(parser, "signature")
    parser.add_argument(
        "--runtime", default="openvino", metavar="NAME", help="openvino (default), onnxruntime, or tensorrt on a GPU"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: the cores that this process may use")
    parser.add_argument(
        "--repeats", type=int, default=10, metavar="N", help="of batch 32; five times as many of batch 1"
    )
    return options.add(parser, "--size", "paths", "--runs-dir", json="the figures")


def main(args: argparse.Namespace) -> int:
    """Measure and print. Raises VitqError for a run that cannot be exported."""
    from vitq.errors import VitqError, bad
    from vitq.machine import int8_products_are_exact, usable_cores
    from vitq.planning import paths
    from vitq.store import Store

    threads = usable_cores() if args.threads is None else args.threads
    for name, value in (("--threads", threads), ("--repeats", args.repeats)):
        if value < 1:
            raise VitqError(bad(name, value, "a whole number of at least 1 is needed"))
    if not int8_products_are_exact():
        text = "8-bit products saturate on this CPU (no VNNI): accuracy of the integer model is not that of its codes"
        print(f"vitq: {text}", file=sys.stderr)
    run = Store(args.runs_dir).find(args.signature)
    paths.move(run.dir, args.paths)
    with redirect_stdout(sys.stderr):  # libraries that print must not reach the reader of the JSON
        from vitq.deploy.bench import bench
        from vitq.deploy.bench_pyramid import bench_pyramid
        from vitq.deploy.graph_shape import graph_shape
        from vitq.job.packed_run import packed_run
        from vitq.progress import Progress

        progress = Progress()
        packed = packed_run(run.dir, progress)
        if run.config.finds_objects:
            done = bench_pyramid(packed, run.config, args.runtime, threads, args.repeats, args.size, progress)
        else:
            graph_shape(packed, args.size)
            recorded = run.predictions["topk_index"][:, 0]
            done = bench(packed, run.config, recorded, args.runtime, threads, args.repeats, progress)
    table = _pyramid_table if run.config.finds_objects else _table
    print(json.dumps(done, indent=2) if args.json else table(done))
    return 0


def _pyramid_table(done: dict[str, Any]) -> str:
    height, width = done["size"]
    levels = list(done["forms"]["float32"]["error"])
    lines = [
        f"{done['runtime']}, {done['threads']} threads, images of {height}x{width}; backbone and pyramid",
        f"{'':14} {'batch 1':>26}   relative distance from the simulated pyramid, {done['images']} images",
        f"{'':14} {'':>26} {''.join(f'{level:>9}' for level in levels)}",
    ]
    for name, row in done["forms"].items():
        distances = "".join(f"{row['error'][level]:9.4f}" for level in levels)
        lines.append(f"{name:14} {_spread(row['batch1']):>26} {distances}")
    lines.append(f"speedup {done['speedup']:.2f} (integer ÷ float32)")
    return "\n".join(lines)


def _table(done: dict[str, Any]) -> str:
    head = f"{'':14} {'batch 1':>22} {'batch 32':>26} {'images/s':>9} {'top-1':>7} {'agreement':>10}"
    lines = [f"{done['runtime']}, {done['threads']} threads, {done['images']} images", head]
    for name, row in done["forms"].items():
        one, many = (_spread(row[f"batch{size}"]) for size in (1, 32))
        speed = row["batch32"]["images_per_second"]
        lines.append(f"{name:14} {one:>22} {many:>26} {speed:9.1f} {row['top1']:6.2f}% {row['agreement']:9.2f}%")
    lines.append(f"speedup {done['speedup']:.2f} (integer ÷ float32, images/s at batch 32)")
    return "\n".join(lines)


def _spread(timing: dict[str, Any]) -> str:
    low, high = timing["quartiles"]
    return f"{timing['milliseconds']:.1f} ms ({low:.1f}–{high:.1f})"

"""What a landscape costs beside plain forward passes of the same images: --points² of either, in turns.

    python benchmarks/landscape.py --json                      the whole grid: 441 points and 441 passes
    python benchmarks/landscape.py --measure 21 --json         21 of the 441 points, on a slow machine

A W4A4 DeiT-tiny with random weights (the time does not depend on them), 64 images, the recipe minmax, on the CPU. Both
are counted in CPU seconds of this process, which other programs on the machine hardly change; --wall takes the clock's.
Exit code 1 where the landscape takes more than 10 % longer than the passes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from predictor_overhead import workspace
from reconstruction import Noise

from vitq.probes.landscape import Landscape
from vitq.probes.ledger import BudgetSpentError, Ledger
from vitq.probes.subject import Subject
from vitq.progress import Progress

LIMIT = 1.10
Clock = Callable[[], float]


class Counted(Ledger):
    """Stops after some pieces, whatever they took."""

    def __init__(self, kept: dict[str, np.ndarray], pieces: int):
        super().__init__("benchmark", dict(kept), kept.update, 1e9, Progress())
        self._left = pieces

    def tick(self, note: str = "") -> None:
        """A piece was measured."""
        super().tick(note)
        self._left -= 1
        if not self._left:
            self.save()
            raise BudgetSpentError


def subject(images: int) -> Subject:
    """The model of the other benchmarks, looked at on noise."""
    work = workspace()
    found = Subject(work.model, Noise(images), work.config, work.device, Progress())  # type: ignore[arg-type]
    found.__dict__["batches"] = [
        (batch, torch.arange(len(batch)) % 1000)
        for batch, _ in Noise(images).batches(work.config.data.batch_size, work.device)
    ]
    return found


@torch.no_grad()
def passes(found: Subject, count: int, clock: Clock) -> float:
    """Seconds of plain forward passes."""
    begin = clock()
    for _ in range(count):
        for batch, _labels in found.batches:
            found.model(batch)
    return clock() - begin


def points(found: Subject, probe: Landscape, kept: dict[str, np.ndarray], count: int, clock: Clock) -> float:
    """Seconds of the next points of the landscape, directions included."""
    begin = clock()
    try:
        probe.measure(found, Counted(kept, count))
    except BudgetSpentError:
        return clock() - begin
    raise RuntimeError("the landscape ended before its last point was counted")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=21, help="of each axis")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--measure", type=int, help="only so many points of the grid")
    parser.add_argument("--turn", type=int, default=7, help="points and passes of one turn")
    parser.add_argument("--wall", action="store_true", help="wall-clock seconds, on a machine that does nothing else")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    probe, found = Landscape(views=("random",), points=args.points), subject(args.images)
    grid = args.points**2
    total = min(args.measure or grid, grid)
    clock: Clock = time.perf_counter if args.wall else time.process_time
    passes(found, 1, clock)
    kept: dict[str, np.ndarray] = {}
    turns = []
    for begin in range(0, total, args.turn):
        count = min(args.turn, total - begin)
        turns.append((passes(found, count, clock), points(found, probe, kept, count, clock)))
    plain, landscape = (sum(seconds) for seconds in zip(*turns, strict=True))
    result = {
        "points": grid,
        "measured": total,
        "images": args.images,
        "clock": "wall" if args.wall else "cpu",
        "threads": torch.get_num_threads(),
        "seconds_per_pass": plain / total,
        "seconds_per_point": landscape / total,
        "ratio": landscape / plain,
        "ratio_of_turns": sorted(b / a for a, b in turns),
        "limit": LIMIT,
    }
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"{total} of {grid} points: {landscape:.1f} s; as many passes: {plain:.1f} s; ratio {landscape / plain:.3f}"
        )
    return 0 if landscape <= LIMIT * plain else 1


if __name__ == "__main__":
    sys.exit(main())

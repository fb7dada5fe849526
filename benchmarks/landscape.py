"""What a landscape costs beside plain forward passes of the same images: a pass after every point of the grid.

    python benchmarks/landscape.py --json                      the whole grid: 441 points and 441 passes
    python benchmarks/landscape.py --measure 21 --json         21 of the 441 points, on a slow machine

A W4A4 DeiT-tiny with random weights (the time does not depend on them), 64 images, the recipe minmax, on the CPU. Both
are counted in CPU seconds of this process, which other programs on the machine hardly change; --wall takes the clock's.
Exit code 1 where the landscape takes more than 10 % longer than the passes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from statistics import median

import torch
from common import options, show
from predictor_overhead import minmax
from reconstruction import Noise

from vitq.probes.budget import BudgetSpentError, PartialResults
from vitq.probes.landscape import Landscape
from vitq.probes.probed_model import Subject
from vitq.progress import Progress

LIMIT = 1.10
Clock = Callable[[], float]


class Turns(PartialResults):
    """After each point a plain pass; seconds of both. What comes before the first point (directions) counts with it."""

    def __init__(self, plain: Callable[[], None], count: int, clock: Clock):
        super().__init__("benchmark", {}, lambda _: None, 1e9, Progress())
        self.points: list[float] = []
        self.passes: list[float] = []
        self._plain, self._count, self._time = plain, count, clock
        self._since = clock()

    def tick(self, note: str = "") -> None:
        """A point was measured. Raises BudgetSpentError after the last one that was asked for."""
        super().tick(note)
        now = self._time()
        self.points.append(now - self._since)
        self._plain()
        self._since = self._time()
        self.passes.append(self._since - now)
        if len(self.points) == self._count:
            raise BudgetSpentError


def on_noise(images: int) -> Subject:
    """The model of the other benchmarks, looked at on noise."""
    work = minmax()
    seen = Subject(work.model, Noise(images), work.config, work.device, Progress())  # type: ignore[arg-type]
    seen.__dict__["batches"] = [
        (batch, torch.arange(len(batch)) % 1000)
        for batch, _ in Noise(images).batches(work.config.data.batch_size, work.device)
    ]
    return seen


@torch.no_grad()
def plain(subject: Subject) -> None:
    """A forward pass of all images."""
    for batch, _labels in subject.batches:
        subject.model(batch)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--points", type=int, default=21, help="of each axis")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--measure", type=int, help="only so many points of the grid")
    parser.add_argument("--wall", action="store_true", help="wall-clock seconds, on a machine that does nothing else")
    args = parser.parse_args()
    probe, subject = Landscape(views=("random",), points=args.points), on_noise(args.images)
    grid = args.points**2
    total = min(args.measure or grid, grid)
    clock: Clock = time.perf_counter if args.wall else time.process_time
    plain(subject)
    turns = Turns(lambda: plain(subject), total, clock)
    with suppress(BudgetSpentError):
        probe.measure(subject, turns)
    of_points, of_passes = sum(turns.points), sum(turns.passes)
    ratios = sorted(point / pass_ for point, pass_ in zip(turns.points, turns.passes, strict=True))
    result = {
        "points": grid,
        "measured": total,
        "images": args.images,
        "clock": "wall" if args.wall else "cpu",
        "threads": torch.get_num_threads(),
        "seconds_per_pass": of_passes / total,
        "seconds_per_point": of_points / total,
        "ratio": of_points / of_passes,
        "ratio_of_turns": {"least": ratios[0], "median": median(ratios), "most": ratios[-1]},
        "limit": LIMIT,
    }
    if args.json:
        show(result, as_json=True)
    else:
        print(f"{total} of {grid} points: {of_points:.1f} s; passes: {of_passes:.1f} s; {of_points / of_passes:.3f}")
    return 0 if of_points <= LIMIT * of_passes else 1


if __name__ == "__main__":
    sys.exit(main())

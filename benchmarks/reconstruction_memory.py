"""Seconds and peak resident memory of a method at two calibration sizes, each run in a process and store of its own.

    python benchmarks/reconstruction_memory.py OVERRIDES     --json prints {"runs": [{"images": 64, …}, …], "ratio": …}
    python benchmarks/reconstruction_memory.py --method repq_vit --iterations 0 --sizes 32 512 --repeat 3 OVERRIDES

OVERRIDES name the images and the model, as for `vitq run` (`data.root=DIR data.calib_split=calib …`); the method runs
at W4A4 with its activations on disk (calib.cache=host keeps them in memory), by default I&S-ViT with three iterations
for each block and stage. Seconds are those of the recipe's steps, the median of --repeat runs, as memory is. ratio =
memory of the larger set ÷ that of the smaller.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile

from common import options, show


def measure(method: str, images: int, repeat: int, overrides: list[str]) -> dict[str, float]:
    """Run `vitq run` `repeat` times. Raises CalledProcessError when one fails."""
    seconds, memory = [], []
    command = [sys.executable, "-m", "vitq", "run", "--json", "model=deit_tiny", "data=imagenet", f"method={method}"]
    command += ["bits=w4a4", "tracker=none", f"calib.size={images}", "calib.cache=disk", *overrides]
    for _ in range(repeat):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([*command, f"runs_dir={folder}"], stdout=subprocess.PIPE, text=True, check=True)
        result = json.loads(done.stdout)
        stages = result["timings"]["stages"]
        seconds.append(sum(value for name, value in stages.items() if name.startswith("steps.")))
        memory.append(result["memory"]["peak_rss_bytes"])
    return {
        "images": images,
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "peak_mib": statistics.median(memory) / 2**20,
        "top1": result["metrics"]["top1"],
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--method", default="ias_vit")
    parser.add_argument("--sizes", nargs=2, type=int, default=(64, 512), metavar=("FEW", "MANY"))
    parser.add_argument("--iterations", type=int, default=3, help="0: the method has none, or its own")
    parser.add_argument("--repeat", type=int, default=1)
    args = parser.parse_args()
    iterations = [f"method.iterations={args.iterations}"] if args.iterations else []
    few, many = (measure(args.method, size, args.repeat, [*iterations, *args.overrides]) for size in args.sizes)
    show({"runs": [few, many], "ratio": many["peak_mib"] / few["peak_mib"]}, args.json)


if __name__ == "__main__":
    main()

"""Seconds and peak memory of RepQ-ViT's calibration at two calibration sizes, each run in a process of its own.

    python benchmarks/repq_calibration.py data=imagenet data.root=IMAGENET data.class_map=SYNSETS.txt \
        data.calib_split=calib model=deit_tiny model.checkpoint=DEIT_TINY.safetensors

Prints the seconds of the recipe's steps (median of --repeat runs) for each size, and the ratio of peak memory between
the two sizes; `--json` prints the same as one document. Extra arguments are overrides of `vitq run`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def measure(size: int, repeat: int, overrides: list[str], folder: Path) -> dict[str, float]:
    """Run `vitq run` `repeat` times, each on an empty store. Raises CalledProcessError when one fails."""
    seconds, memory, top1 = [], [], 0.0
    for attempt in range(repeat):
        command = [sys.executable, "-m", "vitq", "run", "--json", "method=repq_vit", "bits=w4a4", "tracker=none"]
        command += [f"calib.size={size}", f"runs_dir={folder / f'{size}-{attempt}'}", *overrides]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        stages = result["timings"]["stages"]
        seconds.append(sum(value for name, value in stages.items() if name.startswith("steps.")))
        memory.append(result["memory"]["peak_rss_bytes"])
        top1 = result["metrics"]["top1"]
    return {
        "images": size,
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "peak_mib": statistics.median(memory) / 2**20,
        "top1": top1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=2, default=(32, 512))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(size, args.repeat, args.overrides, Path(folder)) for size in args.sizes]
    ratio = rows[1]["peak_mib"] / rows[0]["peak_mib"]
    if args.json:
        print(json.dumps({"runs": rows, "memory_ratio": ratio}, indent=2))
        return
    for row in rows:
        print(
            f"{row['images']:>5} images: {row['seconds']:.2f} s (best {row['seconds_min']:.2f}), "
            f"peak {row['peak_mib']:.0f} MiB, top-1 {row['top1']:.2f} %"
        )
    print(f"peak memory ratio {ratio:.2f}")


if __name__ == "__main__":
    main()

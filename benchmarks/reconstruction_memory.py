"""Peak resident memory of reconstruction with many calibration images on disk against few, each in its own process.

    python benchmarks/reconstruction_memory.py OVERRIDES            --json prints {"bytes": {"64": …, "512": …}, …}

OVERRIDES name the images and the model, as for `vitq run` (`data.root=DIR data.calib_split=calib …`); `--method` is
reconstructed at W4A4, by default I&S-ViT, three iterations for each block and stage. ratio = the larger set ÷ the
smaller.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile


def peak(method: str, images: int, iterations: int, overrides: list[str]) -> int:
    """Peak resident bytes of a run's process with this many calibration images."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "vitq", "run", "--json", "model=deit_tiny", "data=imagenet", f"method={method}"),
            *("bits=w4a4", "tracker=none", f"runs_dir={folder}", f"calib.size={images}", "calib.cache=disk"),
            *(f"method.iterations={iterations}", *overrides),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return int(json.loads(done.stdout)["memory"]["peak_rss_bytes"])


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--method", default="ias_vit")
    parser.add_argument("--images", nargs=2, type=int, default=(64, 512), metavar=("FEW", "MANY"))
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = {images: peak(given.method, images, given.iterations, given.overrides) for images in given.images}
    few, many = found.values()
    if given.json:
        print(json.dumps({"bytes": found, "ratio": many / few}))
        return
    for images, size in found.items():
        print(f"{images:4d} images: {size / 1e9:.2f} GB")
    print(f"ratio {many / few:.2f}")


if __name__ == "__main__":
    main()

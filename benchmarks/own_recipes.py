"""Our own recipes on DeiT-tiny beside what they aim at: top-1 and seconds, mean ± standard deviation over seeds.

    python benchmarks/own_recipes.py data.root=IMAGENET data.class_map=… model.checkpoint=… device=cpu
    python benchmarks/own_recipes.py … --recipes rols --bits w3a3 w4a4 --seeds 0

Runs `sweeps/own_recipes.yaml`, once for each recipe, with the calibration images that suit it; finished runs are not
repeated. The aims are of 650 ImageNet validation images, on which full precision has 78.77 %; other images have others.
Seconds are those of the recipe's steps, without loading and scoring.
"""

from __future__ import annotations

from common import options, show

import vitq

# Calibration images of each recipe.
IMAGES = {"rols": 32, "rols_distill": 512}
# Least top-1, percent, and most seconds on two cores.
AIMS = {
    ("rols", "w3a3"): (45, 60),
    ("rols", "w3a4"): (66, 60),
    ("rols", "w4a4"): (73, 60),
    ("rols_distill", "w3a3"): (55, 180),
    ("rols_distill", "w4a4"): (76, 180),
}


def measured(recipe: str, bits: str, seeds: list[int], words: list[str]) -> str:
    """One line of the table."""
    axes = [f"method={recipe}", f"bits={bits}", f"seed={','.join(map(str, seeds))}", f"calib.size={IMAGES[recipe]}"]
    done = vitq.sweep("own_recipes", *axes, *words, name=f"own_{recipe}_{bits}").table()
    top1 = done["top1"].dropna()
    seconds = done["quantize_seconds"].mean()
    line = f"{top1.mean():.2f} ± {top1.std():.2f} %, {seconds:.0f} s, {len(top1)} of {len(seeds)} seeds"
    aim = AIMS.get((recipe, bits))
    return line if aim is None else f"{line} (aim {aim[0]} %, {aim[1]} s)"


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("overrides", nargs="+", metavar="KEY=VALUE", help="images and weights, as for vitq run")
    parser.add_argument("--recipes", nargs="+", choices=IMAGES, default=list(IMAGES))
    parser.add_argument("--bits", nargs="+", default=["w4a4", "w3a4", "w3a3", "w2a4", "w2a3"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    rows = [(recipe, bits) for recipe in args.recipes for bits in args.bits]
    show({f"{r} {b}": measured(r, b, args.seeds, args.overrides) for r, b in rows}, args.json)


if __name__ == "__main__":
    main()

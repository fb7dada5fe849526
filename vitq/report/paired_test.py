"""Two runs compared image by image: is the difference larger than the luck of which images were drawn?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from vitq.errors import Problem, StoreError
from vitq.report.correction import RESAMPLES, SEED, corrected
from vitq.store import Store


@dataclass(frozen=True)
class Comparison:
    """Method minus baseline over the same n images.

    difference, low, high: percent points, with its 95 % paired-bootstrap interval. gained / lost: images that only the
    method / only the baseline has right. p: exact two-sided McNemar test.
    """

    difference: float
    low: float
    high: float
    gained: int
    lost: int
    n: int
    p: float


def compare(method: np.ndarray, baseline: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> Comparison:
    """Compare correctness per image, bool (N,) each, of two runs over the same images in the same order.

    Raises ValueError for different or empty shapes.
    """
    from scipy.stats import binomtest

    method, baseline = np.asarray(method, bool), np.asarray(baseline, bool)
    if method.shape != baseline.shape or method.ndim != 1 or not method.size:
        text = f"paired comparison of shapes {method.shape} and {baseline.shape}; both must be (N,), N > 0"
        raise ValueError(Problem(text, "shapes", (method.shape, baseline.shape)))
    n = method.size
    gained, lost = int((method & ~baseline).sum()), int((baseline & ~method).sum())
    # Per image the difference is +1, -1 or 0, so N draws with replacement are one multinomial draw of those counts:
    # the paired bootstrap itself, without an N × resamples table.
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, [gained / n, lost / n, (n - gained - lost) / n], size=resamples)
    low, high = np.percentile(100 * (drawn[:, 0] - drawn[:, 1]) / n, [2.5, 97.5])
    p = float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0
    return Comparison(100 * (gained - lost) / n, float(low), float(high), gained, lost, n, p)


def paired(store: Store, df: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Every finished quantized run of `df` (from `table`) against the baseline's run of the same model, data, bits,
    calibration and seed; against its only run per model where the baseline is the full-precision method.

    Columns: model, data, bits, calib, seed, method, baseline, difference, low, high, gained, lost, n, p, note, and
    CORRECTED, for the comparisons of this table. note says why a pair could not be compared; its numbers are then NaN.
    Detectors have no right and wrong images: `pairwise` judges them.
    """
    done = df[(df["state"] == "done") & ~df["task"].isin(["detection", "segmentation"])]
    references: dict[tuple[object, ...], pd.Series] = {}
    for _, row in done[done["method_name"] == baseline].iterrows():
        references.setdefault(_key(row), row)  # of several variants, the first of the plan
    predictions = Predictions(store)
    rows = []
    for _, row in done[done["bits"] != "FP"].iterrows():
        reference = references.get(_key(row))
        if reference is None:
            reference = references.get((row["model"], row["data"], "FP"))
        if reference is not None and reference["signature"] == row["signature"]:
            continue
        head = {key: row[key] for key in ("model", "data", "bits", "calib", "seed", "method")} | {"note": ""}
        if reference is None:
            rows.append(head | {"baseline": baseline, "note": f"no finished run of {baseline} to compare with"})
            continue
        rows.append(head | {"baseline": reference["method"]} | _compare_runs(row, reference, predictions))
    columns = ["model", "data", "bits", "calib", "seed", "method", "baseline", "difference", "low", "high"]
    out = pd.DataFrame(rows, columns=[*columns, "gained", "lost", "n", "p", "note"])
    out = out.astype(
        {"difference": float, "low": float, "high": float, "p": float, "gained": "Int64", "lost": "Int64", "n": "Int64"}
    )
    split = zip(out["gained"], out["lost"], out["n"], strict=True)
    counted = [() if pd.isna(n) else ((-1, lost), (0, n - gained - lost), (1, gained)) for gained, lost, n in split]
    whole = corrected(out.assign(seeds=1, outcomes=pd.Series(counted, index=out.index, dtype=object)))
    return whole.drop(columns=["seeds", "outcomes"])


def _key(row: pd.Series) -> tuple[object, ...]:
    if row["bits"] == "FP":
        return (row["model"], row["data"], "FP")
    return tuple(row[key] for key in ("model", "data", "bits", "calib", "seed", "protocol"))


def _compare_runs(row: pd.Series, reference: pd.Series, predictions: Predictions) -> dict[str, object]:
    try:
        one, other = (predictions.read(str(r["signature"])) for r in (row, reference))
    except StoreError as error:
        return {"note": str(error)}
    if not np.array_equal(one["label"], other["label"]):
        return {"note": f"not the same images: {len(one['label'])} and {len(other['label'])} labels differ"}
    return vars(compare(one["correct"], other["correct"])).copy()


def _of_detector(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    scores = arrays["image_ap_mask" if "image_ap_mask" in arrays else "image_ap_box"]
    known = ~np.isnan(scores)
    return {"correct": np.rint(scores[known]).astype(np.int64), "label": arrays["id"][known]}


class Predictions:
    """What each run of a store got right, each file read once.

    Of a detector `correct` is each image's own average precision in whole percent, of masks where it has some.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, dict[str, np.ndarray]] = {}

    def read(self, signature: str) -> dict[str, np.ndarray]:
        """`correct` bool (N,), or whole percent, and `label` int64 (N,) of a run.

        Raises StoreError when they are absent or damaged.
        """
        if signature not in self._known:
            run = self._store.run(signature)
            arrays = run.read_predictions()
            if "id" in arrays:
                self._known[signature] = _of_detector(arrays)
                return self._known[signature]
            missing, wrong = {"correct", "label"} - set(arrays), ""
            if missing:
                wrong = f"lacks {', '.join(sorted(missing))}"
            elif arrays["correct"].shape != arrays["label"].shape or not arrays["correct"].size:
                wrong = "has no or uneven predictions"
            if wrong:
                text = f"{run.predictions_path} {wrong}; start the run again"
                raise StoreError(text, value=run.predictions_path)
            self._known[signature] = {"correct": arrays["correct"], "label": arrays["label"]}
        return self._known[signature]

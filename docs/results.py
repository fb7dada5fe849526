"""Pages of results from the store that lies with them: `python docs/results.py` makes all of them again.

    python docs/results.py                                     docs/results/SWEEP.md of each sweep of docs/results/store
    python docs/results.py --add demo --runs-dir runs          first takes a sweep's finished runs into that store

What is taken: configs, results, and which images each run has right, of a detector each image's own average precision;
no weights, no objects, no logs. Folders of absolute paths and the machine's name are left out. Signatures stay, since
they do not depend on them.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any, TypeVar

from vitq import report
from vitq.errors import StoreError
from vitq.store import RunDir, Store
from vitq.store.record import StoredRecord
from vitq.store.reproductions import read_reproduction, write_reproduction
from vitq.store.result import Result
from vitq.store.studies import read_study, write_study

PAGES = Path(__file__).parent / "results"
STORE = PAGES / "store"
# Of a detector's predictions, what runs are compared by.
IMAGES = ("id", "image_ap_box", "image_ap_mask")
# Folders of an absolute path. What is no path (a URL, `gained / lost`, 3/4) stays.
_FOLDERS = re.compile(r"(?<![\w./:])/(?:[\w.+-]+/)*(?=[\w.+-])")
R = TypeVar("R", bound=StoredRecord)


def without_folders(value: Any) -> Any:
    """Plain data, every absolute path cut to its last part."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return _FOLDERS.sub("", value) if isinstance(value, str) else value


def add(source: Store, sweep: str, target: Store) -> None:
    """Take a sweep and its finished runs. Raises StoreError for an unknown sweep, and where a run has no result."""
    record = source.read_sweep(sweep)
    unfinished = [signature for signature in record.signatures if not source.run(signature).is_done()]
    if unfinished:
        text = f"sweep {sweep!r}: {len(unfinished)} runs without a result; finish it with `vitq retry {sweep}`"
        raise StoreError(text, "sweep", sweep)
    for signature in record.signatures:
        _take(source.run(signature), target.run(signature))
    if (compared := read_reproduction(source, sweep)) is not None:
        write_reproduction(target, _cut(compared))
    if (study := read_study(source, sweep)) is not None:
        write_study(target, _cut(study))
    target.write_sweep(_cut(record), grown=True)


def _cut(record: R) -> R:
    return type(record).model_validate(without_folders(record.model_dump(mode="json")))


def _take(run: RunDir, target: RunDir) -> None:
    target.path.mkdir(parents=True, exist_ok=True)
    target.write_config(without_folders(run.read_config()))
    raw = without_folders(run.require_result().model_dump(mode="json"))
    raw["provenance"]["host"].pop("name", None)
    target.write_result(Result.model_validate(raw))
    predictions = run.read_predictions()
    kept = [name for name in predictions if name in IMAGES] if "id" in predictions else ["correct", "label"]
    target.write_predictions({name: predictions[name] for name in kept})


def write_pages(store: Store, out: Path) -> list[Path]:
    """The page of each sweep."""
    return [report.build(store, sweep, ["results"], out)["results"] for sweep in store.sweeps()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs="+", metavar="SWEEP", default=[], help="sweeps to take first")
    parser.add_argument("--runs-dir", default="runs", help="store that has them (default: runs)")
    args = parser.parse_args()
    for sweep in args.add:
        add(Store(args.runs_dir), sweep, Store(STORE))
    for path in write_pages(Store(STORE), PAGES):
        print(path)


if __name__ == "__main__":
    main()

"""`vitq show`: all that a store has of one run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitq.cli import options

if TYPE_CHECKING:
    from vitq.store import Run, Store

EXAMPLES = """\
  vitq show 3f09                  its figures, config, sites, files and the end of its log
  vitq show 3f09 --json
"""

# Lines of the log that are shown.
_TAIL = 8


def parser() -> argparse.ArgumentParser:
    parser = options.parser("show", "Figures, config, sites, files and log of one run.", EXAMPLES)
    return options.add(parser, "signature", "--runs-dir", json="all of it")


def main(args: argparse.Namespace) -> int:
    """Print. Raises StoreError for an unknown or ambiguous signature."""
    from vitq.store import Store

    store = Store(args.runs_dir)
    facts = facts_of(store, store.find(args.signature))
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    return 0


def facts_of(store: Store, run: Run) -> dict[str, Any]:
    """What is shown, as plain values; parts that cannot be read, or are not there yet, are left out."""
    import dataclasses

    from vitq.errors import StoreError

    records, _ = store.read_sweeps()
    state = run.read_state()
    facts: dict[str, Any] = {
        **dataclasses.asdict(state),
        "path": str(run.dir.path),
        "sweeps": [record.name for record in records if run.signature in record.signatures],
        "config": run.dir.read_config(),
        "files": {str(path.relative_to(run.dir.path)): path.stat().st_size for path in _files(run.dir.path)},
        "log": run.log.splitlines()[-_TAIL:],
    }
    if state.state == "done":
        result = run.dir.require_result()
        facts |= result.model_dump(mode="json", exclude={"config", "signature"})
        try:
            facts["sites"] = json.loads(_kinds(run).to_json(orient="records"))
        except StoreError as error:
            facts["sites"] = str(error)
    return facts


def _kinds(run: Run) -> Any:
    """The sites of each kind: how many, mean bits, and the signal-to-noise ratio in dB, mean and worst."""
    sites = run.sites
    grouped = sites.groupby("kind", sort=False)
    return grouped.agg(
        sites=("site", "size"), bits=("bits", "mean"), sqnr_db=("sqnr_db", "mean"), worst_db=("sqnr_db", "min")
    ).reset_index()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "state" not in path.parts)


def _print(facts: dict[str, Any]) -> None:
    import yaml

    from vitq.report.numbers import number

    print(f"{facts['run']}  {facts['signature']}  {facts['state']}")
    print(f"record   {facts['path']}")
    print(f"sweeps   {', '.join(facts['sweeps']) or 'none'}")
    if facts["error"]:
        print(f"reason   {facts['error']}")
    if facts["stage"] and facts["state"] != "done":
        print(f"stage    {facts['stage']}")
    if "metrics" in facts:
        _print_figures(facts)
        if isinstance(facts["sites"], str):
            print(f"\nsites    {facts['sites']}")
        else:
            print("\nsites        count  mean bits  SQNR, dB  worst, dB")
            for row in facts["sites"]:
                db = (f"{number(row[key]) if row[key] is not None else '–':>9}" for key in ("sqnr_db", "worst_db"))
                print(f"{row['kind']:<11}{row['sites']:>7}{row['bits']:>11.2f} {'  '.join(db)}")
    print("\nconfig")
    print(_indented(yaml.safe_dump(facts["config"], sort_keys=False, allow_unicode=True)))
    print("\nfiles")
    for name, size in facts["files"].items():
        print(f"  {size / 1e6:>9.3f} MB  {name}")
    if facts["log"]:
        print(f"\nlog, the last lines (vitq logs {facts['signature']} prints all)")
        print(_indented("\n".join(facts["log"])))


def _print_figures(facts: dict[str, Any]) -> None:
    from vitq.report.numbers import figures

    code = facts["provenance"]["code"]
    print(f"figures  {figures(facts['metrics'])}, {facts['size']['quantized_bytes'] / 1e6:.2f} MB")
    print(f"finished {facts['provenance']['finished_at']} after {facts['timings']['total']:.1f} s", end="")
    print(f", by code {code['commit'][:12]}{' (dirty)' if code.get('dirty') else ''}" if code.get("commit") else "")
    for line in facts.get("warnings", ()):
        print(f"warning  {line}")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines())

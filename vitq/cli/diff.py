"""`vitq diff`: in what two runs differ."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vitq.cli import options

if TYPE_CHECKING:
    from vitq.store import Run

EXAMPLES = """\
  vitq diff 3f09 77ab             config keys, code and versions in which they differ, and their figures side by side
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser("diff", "Config, code and figures in which two runs differ.", EXAMPLES)
    parser.add_argument("signatures", metavar="SIGNATURE", nargs=2, help="of `vitq list runs`; a beginning is enough")
    return options.add(parser, "--runs-dir", json="the differences")


def main(args: argparse.Namespace) -> int:
    """Print. Raises StoreError for an unknown or ambiguous signature."""
    from vitq.store import Store

    store = Store(args.runs_dir)
    runs = [store.find(name) for name in args.signatures]
    differing = differences(*runs)
    if args.json:
        print(json.dumps({"signatures": [run.signature for run in runs], **differing}, indent=2))
        return 0
    print(f"a  {runs[0].signature}  {runs[0].label}\nb  {runs[1].signature}  {runs[1].label}")
    for title, rows in differing.items():
        if rows:
            print(f"\n{title.replace('_', ' ')}")
            width = max(map(len, rows))
            for key, (a, b) in rows.items():
                print(f"  {key:<{width}}  {_text(a)}  |  {_text(b)}")
    if runs[0].signature == runs[1].signature:
        print("\nno difference: it is one run")
    return 0


def differences(a: Run, b: Run) -> dict[str, dict[str, list[Any]]]:
    """Key → its two values, None where one has none: of the identity, of what does not change results (paths, devices),
    of code and versions, and all figures of the two."""
    configs = [dict(_flat(run.dir.read_config())) for run in (a, b)]
    keys = [key for key in {**configs[0], **configs[1]} if configs[0].get(key) != configs[1].get(key)]
    signed = [key for key in keys if not _is_volatile(key)]
    results = [run.result if run.is_done else None for run in (a, b)]
    code = [dict(_flat(r.provenance.model_dump(include={"versions", "code"}))) if r else {} for r in results]
    made_by = {**code[0], **code[1]}
    figures = [r.metrics.model_dump() if r else {} for r in results]
    return {
        "config": {key: [config.get(key) for config in configs] for key in signed},
        "no_part_of_the_identity": {key: [c.get(key) for c in configs] for key in keys if key not in signed},
        "code": {key: [c.get(key) for c in code] for key in made_by if code[0].get(key) != code[1].get(key)},
        "figures": {key: [figure.get(key) for figure in figures] for key in {**figures[0], **figures[1]}},
    }


def _is_volatile(key: str) -> bool:
    from vitq.config.signature import VOLATILE

    return any(key == name or key.startswith(f"{name}.") for name in VOLATILE)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _text(value: Any) -> str:
    from vitq.report.numbers import number

    return number(value, 4) if isinstance(value, float) else "–" if value is None else str(value)

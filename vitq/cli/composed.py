"""`--cfg job` and `--info`: what is composed, and from which files. Nothing is checked, started or written."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitq.planning.compose import ConfigCell, Primary


def wanted(args: argparse.Namespace) -> bool:
    """Whether one of them was given."""
    return args.cfg is not None or args.info


def print_composed(primary: Primary, args: argparse.Namespace) -> int:
    """Print it. Raises ConfigError for runs that do not compose."""
    from vitq.errors import ConfigError
    from vitq.planning import compose

    cells = list(compose.expand(primary))
    problems = [cell.problem for cell in cells if cell.problem is not None]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    if args.info:
        _print_info(primary, cells)
    if args.cfg:
        for number, cell in enumerate(cells):
            if len(cells) > 1:
                print("---" if number else "", f"# {' '.join(cell.overrides)}".strip(), sep="\n" if number else "")
            print(_yaml(cell.raw), end="")
    return 0


def _yaml(raw: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120))


def _print_info(primary: Primary, cells: list[ConfigCell]) -> None:
    print(f"primary config\n  {primary.file}\n\nsearched, the first that has a file counts")
    for folder in primary.search_path.folders:
        print(f"  {folder}")
    for line in primary.warnings:
        print(f"  {line}")
    print("\noptions")
    chosen = {(group.partition("@")[0], option) for cell in cells for group, option in cell.choices.items()}
    for group, option in sorted(chosen):
        file = primary.search_path.file(group, option)
        print(f"  {group}={option}  {file or 'from hydra.searchpath of the primary config'}")
    if primary.axes:
        print("\naxes")
        for key, values in primary.axes.items():
            print(f"  {key.lstrip('+')}={','.join(values)}")

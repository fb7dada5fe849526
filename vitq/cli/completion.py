"""`vitq completion`: what a shell offers after a tab."""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vitq.cli import options

if TYPE_CHECKING:
    from vitq.config.search_path import ConfigPath

EXAMPLES = """\
  eval "$(vitq completion bash)"                         in ~/.bashrc
  eval "$(vitq completion zsh)"                          in ~/.zshrc, after compinit
  vitq completion fish > ~/.config/fish/completions/vitq.fish
"""

# $1: the line up to the cursor. bash takes `method=re` for three words, and puts what is offered after the sign.
_SHELLS = {
    "bash": """\
_vitq() {
    local line="${COMP_LINE:0:COMP_POINT}" word="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n'
    word="${word##* }"
    COMPREPLY=($(vitq completion --line "$line" 2>/dev/null))
    case "$word" in *=*) COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}");; esac
    case "${COMPREPLY[0]}" in *=) compopt -o nospace;; esac
}
complete -F _vitq vitq
""",
    "zsh": """\
_vitq() {
    local -a found
    found=("${(@f)$(vitq completion --line "${BUFFER[1,CURSOR]}" 2>/dev/null)}")
    compadd -Q -S '' -- $found
}
compdef _vitq vitq
""",
    "fish": """\
complete -c vitq -f -a '(vitq completion --line (commandline -cp) 2>/dev/null)'
""",
}

_COMPOSING = (*options.COMPOSING, "list")
_OF_SWEEPS = ("status", "retry", "cancel", "report", "dashboard", "probe", "sync", "track")
_OF_RUNS = ("show", "diff", "logs", "export", "bench", "probe", "cancel")


def parser() -> argparse.ArgumentParser:
    parser = options.parser("completion", "A script with which a shell completes vitq's words.", EXAMPLES)
    parser.add_argument("shell", choices=tuple(_SHELLS), nargs="?")
    parser.add_argument("--line", help=argparse.SUPPRESS)
    return parser


def main(args: argparse.Namespace) -> int:
    """Print the script, or what fits a line."""
    from vitq.errors import VitqError, unknown

    if args.line is not None:
        print("\n".join(fitting(args.line)))
    elif args.shell is None:
        raise VitqError(unknown("shell", "", _SHELLS, key="shell"))
    else:
        print(_SHELLS[args.shell], end="")
    return 0


def fitting(line: str) -> list[str]:
    """What the last word of a line may become; the line begins with `vitq`."""
    from vitq.cli.main import COMMANDS

    *before, word = line.split(" ")[1:]
    words = [w for w in before if w]
    if not words:
        return _beginning(word, COMMANDS)
    command = words[0]
    if command not in COMMANDS:
        return []
    if word.startswith("-"):
        text = importlib.import_module(f"vitq.cli.{command}").parser().format_help()
        return _beginning(word, dict.fromkeys(re.findall(r"--[a-z][a-z-]*", text)))
    if command in _COMPOSING and "=" in word:
        return _options(word, words)
    names: list[str] = []
    if command == "list" and len(words) == 1:
        from vitq.cli.list import WHAT

        names += WHAT
    if command in ("sweep", "fetch") and len(words) == 1:
        from vitq.config.search_path import sweep_files

        names += sweep_files()
    elif command == "tune" and len(words) == 1:
        names += _search_path(words).files("method")
    elif command in _COMPOSING:
        names += _keys(words)
    if command in (*_OF_SWEEPS, *_OF_RUNS):
        names += _stored(command, words)
    return _beginning(word, names)


def _beginning(word: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(word)]


def _after(words: list[str], option: str) -> str | None:
    """The value of an option among the words before."""
    pairs = [*itertools.pairwise(words), *(tuple(word.split("=", 1)) for word in words if "=" in word)]
    return next((value for key, value in pairs if key == option), None)


def _options(word: str, words: list[str]) -> list[str]:
    """`method=re` → `method=repq_vit`; after a comma another value of an axis."""
    key, _, values = word.partition("=")
    done, comma, last = values.rpartition(",")
    return [
        f"{key}={done}{comma}{name}" for name in _search_path(words).files(key.lstrip("+")) if name.startswith(last)
    ]


def _keys(words: list[str]) -> list[str]:
    groups = {folder.name for path in _search_path(words).folders for folder in path.glob("*/") if folder.is_dir()}
    from vitq.config.reference import keys

    return [f"{key}=" for key in (*sorted(groups), *keys())]


def _search_path(words: list[str]) -> ConfigPath:
    from vitq.config.search_path import ConfigPath

    return ConfigPath.of(_after(words, "--config-dir"))


def _stored(command: str, words: list[str]) -> list[str]:
    """Sweeps and runs of the store that the line names."""
    from vitq.store import Store

    folder = _after(words, "--runs-dir") or _after(words, "runs_dir") or options.default_store()
    store = Store(folder)
    sweeps = store.sweeps() if command in _OF_SWEEPS else []
    return [*sweeps, *(store.signatures() if command in _OF_RUNS else [])]

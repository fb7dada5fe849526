"""Errors that a user can act on. Each message names the operation, the value, the valid values, the next action."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class VitqError(Exception):
    """Base of every error that vitq raises on purpose; the command line prints it without a traceback, exit code 2."""


class ConfigError(VitqError):
    """One or more configs are invalid. `problems` lists all of them, so that one look repairs a whole sweep.

    refused: (signature, label) of the runs that cannot start, as far as they have one.
    """

    def __init__(self, problems: Sequence[str], refused: Sequence[tuple[str, str]] = ()):
        self.problems = list(problems)
        self.refused = list(refused)
        count = len(self.problems)
        head = f"{count} problem{'' if count == 1 else 's'} in the configuration; nothing was started"
        super().__init__("\n".join([head, *(f"  - {p}" for p in self.problems)]))


class DataError(VitqError):
    """The images a run needs are missing or do not fit its config."""


class ModelError(VitqError):
    """A model cannot be loaded or is outside the supported families."""


class DeployError(VitqError):
    """A model cannot be packed, exported, read back or run by an integer runtime."""


class StoreError(VitqError):
    """A record under `runs_dir` cannot be read or written."""


def brief(error: BaseException) -> str:
    """An error on one line: the message alone where vitq raised it on purpose, with the class before it otherwise."""
    text = str(error) if isinstance(error, VitqError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def first_line(error: BaseException, otherwise: str | None = None) -> str:
    """First line of an error's message that says something; `otherwise`, or its class, where none does."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else otherwise or type(error).__name__


def unknown(what: str, value: object, valid: Iterable[str], action: str = "") -> str:
    """The one wording for 'there is no such thing': `unknown('quantizer', 'logg2', ['log2', 'uniform'])`."""
    import difflib

    names = sorted(valid)
    close = difflib.get_close_matches(str(value), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {value!r}; valid: {', '.join(names)}.{hint}{' ' + action if action else ''}"

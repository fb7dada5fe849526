"""Errors that a user can act on. Each message names the operation, the value, the valid values, the next action."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class Problem(str):
    """One thing that is wrong: a line of text for people, which carries its fields for programs.

    key: what it is about: a dotted config key, an option of the command line, an entry of a file; '' for none of these.
    value: what is there, None where nothing is. valid: what may be there, as far as it can be listed.
    where: the file and line, or the override, that has it; '' where that is not known.
    action: what to type or write instead, or the command that helps, where it is one; '' else.
    """

    key: str
    value: object
    valid: tuple[object, ...]
    where: str
    action: str

    def __new__(
        cls,
        text: str,
        key: str = "",
        value: object = None,
        valid: Iterable[object] = (),
        where: str = "",
        action: str = "",
    ) -> Problem:
        problem = super().__new__(cls, text)
        problem.key, problem.value, problem.valid = key, value, tuple(valid)
        problem.where, problem.action = where, action
        return problem

    def reworded(self, text: str, where: str = "", action: str = "") -> Problem:
        """The same problem in other words, such as with the file, the override or the runs that have it."""
        return Problem(text, self.key, self.value, self.valid, where or self.where, action or self.action)


def as_problem(text: object) -> Problem:
    """A problem as it is; one without fields for a plain text, as a plug-in may give."""
    return text if isinstance(text, Problem) else Problem(str(text))


def problem_of(error: Exception) -> Problem:
    """What an error of any class says, with its fields where it was raised with a Problem: `ValueError(bad(…))`."""
    return as_problem(error.args[0] if len(error.args) == 1 else error)


def bad(key: str, value: object, why: str, valid: Iterable[object] = ()) -> Problem:
    """The wording for a value that cannot be: `bad('images', 0, 'at least 1 is needed')`."""
    return Problem(f"{key}={value}; {why}", key, value, valid)


def unknown(what: str, value: object, valid: Iterable[str], action: str = "", key: str = "") -> Problem:
    """The one wording for 'there is no such thing': `unknown('quantizer', 'logg2', ['log2', 'uniform'])`.

    key: that of the problem; it stays out of the text. The problem's own action is the name that was probably meant.
    """
    import difflib

    names = sorted(valid)
    plain = {name.lower(): name for name in names}
    close = difflib.get_close_matches(str(value).lower(), plain, n=1)
    meant = plain[close[0]] if close else ""
    hint = f" Did you mean {meant!r}?" if close else ""
    text = f"unknown {what} {value!r}; valid: {', '.join(names)}.{hint}{' ' + action if action else ''}"
    return Problem(text, key, value, names, action=meant)


def under(parent: str, problem: str) -> Problem:
    """A problem as one of a key below `parent`: `images=0; …` is of `method.steps.a.images` under `method.steps.a`.

    One without a key, which lies in how `parent` fits the whole config, is of `parent`.
    """
    inner = as_problem(problem)
    key = f"{parent}.{inner.key}" if inner.key else parent
    return Problem(f"{parent}: {inner}", key, inner.value, inner.valid, inner.where, inner.action)


class VitqError(Exception):
    """Base of every error that vitq raises on purpose; the command line prints it without a traceback, exit code 2.

    key, value, valid, action: the fields of its problem, see `Problem`; of a file, value is its path.
    """

    def __init__(
        self, text: str = "", key: str = "", value: object = None, valid: Iterable[object] = (), action: str = ""
    ):
        super().__init__(text if isinstance(text, Problem) else Problem(text, key, value, valid, action=action))

    @property
    def problems(self) -> list[Problem]:
        """What is wrong, with its fields: one problem, but of several configs."""
        return [as_problem(self.args[0])]


class ConfigError(VitqError):
    """One or more configs are invalid. `problems` lists all of them, so that one look repairs a whole sweep.

    refused: (signature, label) of the runs that cannot start, as far as they have one.
    """

    def __init__(self, problems: Iterable[str], refused: Sequence[tuple[str, str]] = ()):
        Exception.__init__(self, [as_problem(problem) for problem in problems])
        self.refused = list(refused)

    @property
    def problems(self) -> list[Problem]:
        """All of them."""
        return list(self.args[0])

    def __str__(self) -> str:
        count = len(self.problems)
        head = f"{count} problem{'' if count == 1 else 's'} in the configuration; nothing was started"
        return "\n".join([head, *(f"  - {problem}" for problem in self.problems)])


class DataError(VitqError):
    """The images a run needs are missing or do not fit its config. `problems` has all that was looked at together."""

    _several: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> DataError:
        """One error for several problems, at least one."""
        error = cls("; also: ".join(problems))
        error._several = tuple(problems)
        return error

    @property
    def problems(self) -> list[Problem]:
        """All of them."""
        return list(self._several) or super().problems


class ModelError(VitqError):
    """A model cannot be loaded or is outside the supported families."""


class DeployError(VitqError):
    """A model cannot be packed, exported, read back or run by an integer runtime."""


class StoreError(VitqError):
    """A record under `runs_dir` cannot be read or written."""


def shortened(names: Sequence[object], most: int) -> str:
    """The first names of a list, with `…` where there are more: `a, b, c …`."""
    return ", ".join(map(str, names[:most])) + (" …" if len(names) > most else "")


def brief(error: BaseException) -> str:
    """An error on one line: the message alone where vitq raised it on purpose, with the class before it otherwise."""
    text = str(error) if isinstance(error, VitqError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def first_line(error: BaseException, otherwise: str | None = None) -> str:
    """First line of an error's message that says something; `otherwise`, or its class, where none does."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else otherwise or type(error).__name__

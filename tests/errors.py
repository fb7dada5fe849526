"""What tests look at in an error: its fields. Its wording has tests of its own (tests/test_errors.py)."""

from __future__ import annotations

import argparse
import importlib
import io
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, TypeVar
from unittest import mock

import pytest

from vitq import cli
from vitq.errors import Problem, VitqError, problem_of

E = TypeVar("E", bound=Exception)


@contextmanager
def refuses(
    kind: type[E], key: str = "", value: Any = ..., valid: Collection[object] = ()
) -> Iterator[pytest.ExceptionInfo[E]]:
    """The block raises `kind` for one problem of this key and value (… for any); `valid` is among its valid values."""
    with pytest.raises(kind) as raised:
        yield raised
    (problem,) = raised.value.problems if isinstance(raised.value, VitqError) else [problem_of(raised.value)]
    assert is_about(problem, key, value, valid), problem_fields(problem)


def command_refuses(words: Sequence[str], key: str = "", value: Any = ..., valid: Collection[object] = ()) -> None:
    """`vitq WORDS` ends with exit code 2 for one problem of this key and value, and says it on its error stream."""
    (problem,) = command_problems(words)
    assert is_about(problem, key, value, valid), problem_fields(problem)


def command_problems(words: Sequence[str]) -> list[Problem]:
    """All the problems for which `vitq WORDS` ends with exit code 2."""
    command = importlib.import_module(f"vitq.cli.{words[0]}")
    original, errors = command.main, []

    def recorded(args: argparse.Namespace) -> object:
        try:
            return original(args)
        except VitqError as error:
            errors.append(error)
            raise

    with mock.patch.object(command, "main", recorded), redirect_stderr(io.StringIO()) as said:
        assert cli.main(words) == 2
    (error,) = errors
    assert str(error) in said.getvalue()
    problems: list[Problem] = error.problems
    return problems


def is_about(problem: Problem, key: str, value: Any = ..., valid: Collection[object] = ()) -> bool:
    """Whether a problem is of this key and value (… for any), with `valid` among its valid values."""
    return problem.key == key and (value is ... or problem.value == value) and {*valid} <= {*problem.valid}


def problem_fields(problem: Problem) -> tuple[str, object, tuple[object, ...], str]:
    """All that a failed assertion should show."""
    return problem.key, problem.value, problem.valid, str(problem)

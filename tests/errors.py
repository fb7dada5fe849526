"""What tests look at in an error: its fields. Its wording has tests of its own (tests/test_errors.py)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vitq.errors import Problem, VitqError, problem_of


@contextmanager
def refuses(
    kind: type[Exception], key: str = "", value: Any = ..., valid: Collection[object] = ()
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """The block raises `kind` for one problem of this key and value (… for any); `valid` is among its valid values."""
    with pytest.raises(kind) as raised:
        yield raised
    (problem,) = raised.value.problems if isinstance(raised.value, VitqError) else [problem_of(raised.value)]
    assert is_about(problem, key, value, valid), problem_fields(problem)


def is_about(problem: Problem, key: str, value: Any = ..., valid: Collection[object] = ()) -> bool:
    """Whether a problem is of this key and value (… for any), with `valid` among its valid values."""
    return problem.key == key and (value is ... or problem.value == value) and {*valid} <= {*problem.valid}


def problem_fields(problem: Problem) -> tuple[str, object, tuple[object, ...], str]:
    """All that a failed assertion should show."""
    return problem.key, problem.value, problem.valid, str(problem)

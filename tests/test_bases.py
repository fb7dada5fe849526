"""`method.base` that cannot be read is a problem of its cell (the rest: tests/methods/test_scale_predictor.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitq import compose


def cell(*overrides: str, config_dir: str | None = None) -> compose.Cell:
    file, roots = compose.root_config(config_dir)
    (found,) = compose.expand(compose.load(file, roots, overrides))
    return found


@pytest.mark.parametrize("content", ["name: [1\n", "", "[1, 2]\n"])
def test_a_base_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(content)
    problem = cell("method=integer", "method.base=mine", config_dir=str(tmp_path)).problem
    assert problem is not None
    assert "method.base=mine" in problem
    assert "mine.yaml" in problem


def test_a_base_that_is_no_name_is_named() -> None:
    problem = cell("method=integer", "method.base=[minmax]").problem
    assert "unknown method \"['minmax']\"; valid: adalog" in str(problem)

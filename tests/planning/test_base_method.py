"""Files and `method.base` that cannot be read are named (more on bases: tests/methods/test_scale_predictor.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.errors import is_about, refuses
from vitq.errors import ConfigError
from vitq.planning import compose


def cell(*overrides: str, config_dir: str | None = None) -> compose.ConfigCell:
    file, roots = compose.root_config(config_dir)
    (found,) = compose.expand(compose.load(file, roots, overrides))
    return found


@pytest.mark.parametrize("content", ["name: [1\n", "", "[1, 2]\n"])
def test_a_base_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(content)
    problem = cell("method=integer", "method.base=mine", config_dir=str(tmp_path)).problem
    assert problem is not None
    assert is_about(problem, "method.base", "mine")
    assert problem.where == str(tmp_path / "method" / "mine.yaml")


def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text("name: mine\nkinds: {weight: {quantizer: uniform\nsteps: {}\n")
    problem = cell("method=mine", config_dir=str(tmp_path)).problem
    assert problem is not None
    assert problem.value == f"{tmp_path / 'method' / 'mine.yaml'}, line 3, column 6"
    (tmp_path / "mine.yaml").write_text("sweep: {name: x\n  a: [\n")
    file, roots = compose.root_config(str(tmp_path), "mine")
    with refuses(ConfigError, value=f"{tmp_path / 'mine.yaml'}, line 2, column 4"):
        compose.load(file, roots)


def test_a_base_that_is_no_name_is_named() -> None:
    problem = cell("method=integer", "method.base=[minmax]").problem
    assert problem is not None
    assert is_about(problem, "method.base", "['minmax']", ["adalog"])

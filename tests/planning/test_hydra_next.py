"""The composition tests once more, on the coming Hydra 1.4."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("hydra next")  # what it makes first is made once

WANTED = "hydra-core>=1.4.0rc1,<1.5"


@pytest.fixture(scope="module")
def hydra_next() -> Path:
    """A folder with Hydra 1.4 and its OmegaConf, installed beside the environment once and kept there."""
    place = Path(sys.prefix) / "hydra-next"
    stamp = place / f".{WANTED}"
    if not stamp.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--pre", "--upgrade", "--target", str(place), WANTED]
        try:
            done = subprocess.run(pip, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{WANTED} cannot be installed here: pip found nothing within two minutes")
        if done.returncode:
            pytest.skip(f"{WANTED} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
        stamp.touch()
    return place


def test_composition_on_the_next_hydra(hydra_next: Path, repo: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(hydra_next)}
    which = [sys.executable, "-c", "import hydra; print(hydra.__version__)"]
    version = subprocess.run(which, env=env, capture_output=True, text=True, check=True).stdout
    assert version.startswith("1.4")
    tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/planning/test_compose.py"]
    done = subprocess.run([sys.executable, *tests], env=env, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

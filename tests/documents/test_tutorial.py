"""docs/tutorial.py runs as a script in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vitq.store import Run, Store


def test_cells_are_few(repo: Path) -> None:
    text = (repo / "docs" / "tutorial.py").read_text()
    assert 10 <= len(re.findall(r"^# %%", text, flags=re.M)) <= 20


@pytest.mark.slow
def test_tutorial_runs(repo: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(repo / "docs" / "tutorial.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bytes; equal" in done.stdout
    store = Store(tmp_path / "runs")
    runs = [Run(store.run(signature)) for signature in store.signatures()]
    # Full precision, and two methods at two bit-widths, of which the sweep found one computed.
    assert sorted(run.label.split(" c")[0] for run in runs) == [
        "vit_digits fp32",
        "vit_digits minmax W3A3",
        "vit_digits minmax W4A4",
        "vit_digits repq_vit W3A3",
        "vit_digits repq_vit W4A4",
    ]
    assert all(run.is_done for run in runs)
    assert (tmp_path / "runs" / "sweeps" / "tutorial" / "report.html").is_file()

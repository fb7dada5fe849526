"""An application of somebody else that uses Hydra with vitq's launchers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_APP = """\
import os, pathlib, signal, hydra

@hydra.main(version_base=None)
def main(config):
    if config.x == 2:
        raise ValueError("two is bad")
    if config.x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    pathlib.Path(__file__).with_name("out").joinpath(str(config.x)).write_text(os.environ.get("SLURM_JOB_ID", "no job"))

main()
"""


def start(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`-m words` in a folder; job x=N leaves a file `out/N`, but 2 raises ValueError and 3 dies by SIGKILL."""
    (folder / "app.py").write_text(_APP)
    (folder / "out").mkdir()
    command = [sys.executable, str(folder / "app.py"), "-m", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)

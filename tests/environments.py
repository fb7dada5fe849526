"""New Python environments for tests: wheels built from sources, installed beside this environment's dependencies."""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def vitq_wheel(folder: Path) -> Path:
    """A wheel of the checkout, built from a copy so that the checkout stays clean."""
    copy = folder / "checkout"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    )
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(copy)]
    done = subprocess.run([sys.executable, "-m", "pip", *build], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return file


def environment(folder: Path, wheel: Path) -> Path:
    """The folder of executables of a new environment with a wheel; its dependencies are this environment's."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    target = Path(subprocess.run([python, "-c", show], capture_output=True, text=True, check=True).stdout.strip())
    # A path in a .pth file is searched for modules, but its own .pth files (an editable vitq) are not followed.
    (target / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    return folder / "bin"

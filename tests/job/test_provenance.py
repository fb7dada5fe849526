"""Facts about the host: true ones, each compared with another source."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydantic
import pytest

import vitq
from vitq import machine
from vitq.job import provenance
from vitq.store.record import utc_now
from vitq.store.result import Memory, Provenance

COMMIT_ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


@pytest.fixture(autouse=True)
def _fresh_code_facts() -> Iterator[None]:
    provenance.code.cache_clear()
    yield
    provenance.code.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith("GIT_")}, **COMMIT_ENVIRONMENT}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git work tree with a package `vitq` in it, taken for the running one."""
    package = tmp_path / "a folder" / "vitq"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("# a package\n")
    (tmp_path / "a folder" / "notes.txt").write_text("outside the package\n")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-q", "-m", "first")
    monkeypatch.setattr(vitq, "__file__", str(package / "__init__.py"))
    return package


def test_provenance_is_a_valid_record_that_survives_json() -> None:
    started = utc_now()
    record = provenance.provenance(started, attempt=2)
    assert Provenance.model_validate(json.loads(record.to_json())) == record
    assert record.started_at == started <= record.finished_at
    assert record.attempt == 2
    assert record.versions["python"] == platform.python_version()
    assert record.versions["vitq"] == vitq.__version__
    assert record.host["machine"] == platform.machine()
    assert 1 <= int(record.host["cores"]) <= (os.cpu_count() or 1)
    assert int(record.host["memory_bytes"]) > 2**28


@pytest.mark.parametrize(("started", "attempt"), [("2026-01-01T00:00:00", 1), ("2026-01-01T00:00:00+00:00", 0)])
def test_provenance_refuses_a_time_without_zone_and_attempt_zero(started: str, attempt: int) -> None:
    with pytest.raises(pydantic.ValidationError):
        provenance.provenance(started, attempt)


def test_versions_agree_with_the_modules() -> None:
    import numpy
    import torch

    found = provenance.versions()
    assert found["numpy"] == numpy.__version__
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]


def test_a_missing_package_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-distribution",))
    assert provenance.versions()["no-such-distribution"] == "not installed"


def test_asking_for_facts_imports_neither_torch_nor_wandb() -> None:
    script = (
        "import sys; from vitq.job import execute, provenance, worker; from vitq.store.record import utc_now\n"
        "provenance.provenance(utc_now(), 1); provenance.peak_memory(); provenance.reset_peak_memory()\n"
        "print([m for m in ('torch', 'wandb', 'timm', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_code_names_the_commit_and_a_clean_tree(checkout: Path) -> None:
    expected = git(checkout, "rev-parse", "HEAD")
    assert provenance.code() == {"version": vitq.__version__, "commit": expected, "dirty": "false"}


@pytest.mark.parametrize("change", ["edit", "new file"])
def test_code_is_dirty_when_the_package_differs_from_its_commit(checkout: Path, change: str) -> None:
    (checkout / ("__init__.py" if change == "edit" else "method.py")).write_text("# changed\n")
    assert provenance.code()["dirty"] == "true"


def test_code_is_clean_when_only_files_outside_the_package_differ(checkout: Path) -> None:
    (checkout.parent / "notes.txt").write_text("changed\n")
    assert provenance.code()["dirty"] == "false"


def test_an_installed_copy_does_not_borrow_the_commit_of_the_repository_around_it(checkout: Path) -> None:
    git(checkout.parent, "rm", "-q", "-r", "--cached", "vitq")
    git(checkout.parent, "commit", "-q", "-m", "the package is no longer part of this repository")
    assert provenance.code() == {"version": vitq.__version__, "commit": None, "dirty": None}


def test_git_variables_of_a_hook_do_not_point_at_another_repository(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert provenance.code()["commit"] == expected


def test_without_git_the_commit_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert shutil.which("git") is None
    assert provenance.code()["commit"] is None


def test_peak_memory_sees_an_allocation_and_forgets_it_after_a_reset() -> None:
    # In a process of its own: what other tests have allocated would blur the figures.
    script = (
        "import json; from vitq.job import provenance\n"
        "before = provenance.peak_memory().peak_rss_bytes\n"
        "block = bytearray(b'x') * 200_000_000\n"
        "grown = provenance.peak_memory().peak_rss_bytes\n"
        "del block\n"
        "reset = provenance.reset_peak_memory()\n"
        "print(json.dumps([before, grown, reset, provenance.peak_memory().peak_rss_bytes]))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    before, grown, reset, after = json.loads(done.stdout)
    assert 1e6 < before < 2e8
    assert 1.9e8 < grown - before < 3e8
    if sys.platform == "linux":
        assert reset
        assert after < grown - 1.5e8


def test_peak_memory_falls_back_to_getrusage_without_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    true_peak = provenance.peak_memory().peak_rss_bytes
    monkeypatch.setattr(provenance, "_PROC", tmp_path)
    assert not provenance.reset_peak_memory()
    assert provenance.peak_memory().peak_rss_bytes == pytest.approx(true_peak, rel=0.5)
    assert provenance.host()["cpu"]


def test_cuda_peak_is_null_without_a_gpu_in_use() -> None:
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        pytest.skip("this process uses a GPU")
    assert provenance.peak_memory().peak_cuda_bytes is None
    assert "gpu" not in provenance.host()
    assert isinstance(provenance.peak_memory(), Memory)


def test_cuda_peak_and_gpu_facts_on_a_gpu() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    torch.cuda.init()
    provenance.reset_peak_memory()
    start = provenance.peak_memory().peak_cuda_bytes
    block = torch.empty(64 * 2**20, dtype=torch.uint8, device="cuda")
    peak = provenance.peak_memory().peak_cuda_bytes
    assert start is not None
    assert peak is not None
    assert peak - start >= block.numel()
    del block
    provenance.reset_peak_memory()
    assert provenance.peak_memory().peak_cuda_bytes == start
    assert provenance.host()["gpu"] == torch.cuda.get_device_name()


def test_source_changes_with_what_decides_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("quant/uniform.py", "report/page.py", "device.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(vitq, "__file__", str(tmp_path / "__init__.py"))
    seen = [provenance.source.__wrapped__()]
    for name in ("report/page.py", "quant/uniform.py", "device.py"):
        (tmp_path / name).write_text("x = 2\n")
        seen.append(provenance.source.__wrapped__())
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ({"version": "now", "commit": "c", "source": "s"}, []),
        ({"version": "then", "commit": "b", "source": "s"}, []),
        ({"version": "now", "commit": "b", "source": "t"}, ["commit"]),
        ({"version": "now", "commit": "c", "source": "t"}, ["source"]),
        ({"version": "then", "commit": "c", "dirty": "false"}, ["version"]),
        ({"version": "now", "commit": "c", "dirty": "false"}, []),
        ({"version": "now", "commit": "c", "dirty": "true"}, ["uncommitted"]),
        ({}, []),
    ],
)
def test_other_code(recorded: dict[str, str | None], words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "code", lambda: {"version": "now", "commit": "c", "dirty": "false"})
    monkeypatch.setattr(provenance, "source", lambda: "s")
    found = provenance.other_code(recorded)
    assert bool(found) == bool(words)
    assert all(word in found for word in words)


@pytest.mark.parametrize(
    ("flags", "exact"), [("fpu avx2", False), ("avx2 avx512f avx512_vnni", True), ("avx2 avx_vnni", True)]
)
def test_whether_8_bit_products_are_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, exact: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert machine.int8_products_are_exact(cpuinfo) is exact
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine.int8_products_are_exact(cpuinfo)

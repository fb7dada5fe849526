"""What many tests need."""

from __future__ import annotations

import copy
import json
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hydra.core.singleton import Singleton
from hydra.version import VersionBase

from tests.environments import vitq_wheel
from tests.fake_engine import FakeEngine

if TYPE_CHECKING:
    from tests.job.planner import Planner
    from vitq.steps import Workspace

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in a job started by `&`: children would inherit it, and those that tests interrupt would never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    """Each test begins like a new process: no model and no activations of an earlier one."""
    if kept := sys.modules.get("vitq.engine.memory_cache"):
        kept.MEMORY.clear()


@pytest.fixture
def repo() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the checkout. Tests that need it are in the xdist group `packaging`, so that it is built once."""
    return vitq_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[..., Workspace]:
    """See tests/tiny.py."""
    from tests.tiny import workspaces  # torch and timm take seconds that tests of plans and reports need not wait

    return workspaces(tmp_path / "cache")


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    """Real runs in a store of their own: see tests/job/planner.py."""
    from tests.job.planner import Planner

    return Planner(tmp_path)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEngine:
    """A fake engine, in an empty working folder, so that `runs/` is the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VITQ_CACHE_DIR", str(tmp_path / "cache"))
    return FakeEngine().install(monkeypatch)


@pytest.fixture
def benchmark(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """benchmark(script, words…) → what a script of benchmarks/ prints as JSON. It runs in this process."""

    def run(script: str, *words: str) -> dict[str, Any]:
        monkeypatch.syspath_prepend(str(repo / "benchmarks"))
        monkeypatch.setattr(sys, "argv", [script, "--json", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(repo / "benchmarks" / script), run_name="__main__")
        printed = capsys.readouterr()
        assert ended.value.code == 0, printed.out + printed.err
        found: dict[str, Any] = json.loads(printed.out)
        return found

    return run


@pytest.fixture
def nothing_composed() -> Iterator[None]:
    """Hydra as in a new process, for its own suites: `version_base` of an earlier compose would stay."""
    state = copy.deepcopy(Singleton.get_state())
    Singleton._instances.pop(VersionBase, None)
    yield
    Singleton.set_state(state)

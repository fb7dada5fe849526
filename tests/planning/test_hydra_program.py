"""vitq inside a program that is a Hydra application itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import json, sys
import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
import vitq
from tests.fake_engine import FakeEngine

@hydra.main(version_base="1.2", config_path="conf", config_name="config")
def main(config):
    FakeEngine().install(pytest.MonkeyPatch())
    run = vitq.run("method=minmax", f"seed={config.seed}", "tracker=none", "runs_dir=runs")
    later = hydra.compose("config", ["seed=9"])
    facts = [run.state, run.config.seed, HydraConfig.get().job.name, later.seed, hydra.version.getbase().minor]
    print(json.dumps(facts))

main()
"""


def test_its_hydra_stays_as_it_was(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("seed: 3\nhydra: {run: {dir: out}, job: {chdir: false}}\n")
    env = os.environ | {"PYTHONPATH": str(repo), "VITQ_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["done", 3, "program", 9, 2]

"""`vitq status`: what has become of the runs of a sweep."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.cli.conftest import fail_at_4_bits
from tests.fake_engine import FakeEngine
from vitq.cli import main
from vitq.store import Store, claim
from vitq.store.status import Status


def test_status(small: str, engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.fail = fail_at_4_bits
    main(["sweep", small])
    capsys.readouterr()
    assert main(["status", small]) == 0
    out = capsys.readouterr().out
    assert "3 done, 2 failed of 5 runs" in out
    assert "no such thing" in out
    assert main(["status", small, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"done": 3, "failed": 2}
    assert document["command"] == "vitq sweep small"


def test_status_names_what_a_sweep_varies(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["run", "-m", "model=vit_digits", "method=minmax", "method.kinds.weight.granularity=tensor,channel"]) == 0
    )
    capsys.readouterr()
    assert main(["status", "multirun", "--json"]) == 0
    assert [row["run"] for row in json.loads(capsys.readouterr().out)["runs"]] == [
        "vit_digits minmax w8a8 method.kinds.weight.granularity=tensor",
        "vit_digits minmax w8a8 method.kinds.weight.granularity=channel",
    ]


def test_status_of_a_run_whose_process_is_gone(
    small: str, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sweep", small])
    store = Store("runs")
    first, second, third, fourth, fifth = store.read_sweep(small).signatures
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owners = {first: claim.this_process().model_copy(update={"pid": gone.pid}), second: claim.this_process()}
    for signature, owner in owners.items():
        store.run(signature).result_path.unlink()
        store.run(signature).write_status(Status(state="running", stage="ranges", done=3, total=9))
        store.run(signature).claim_path.write_text(owner.to_json())
    store.run(third).result_path.write_text("{")
    store.run(fourth).result_path.unlink()
    store.run(fourth).status_path.write_text("{")
    store.run(fifth).status_path.write_text("{")  # a valid result is enough
    capsys.readouterr()
    assert main(["status", small, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [row["state"] for row in rows] == ["interrupted", "running", "failed", "unreadable", "done"]
    assert rows[0]["stage"] == "ranges 3/9"
    assert rows[0]["error"].startswith("its process ")
    assert (rows[1]["stage"], rows[1]["eta"]) == ("ranges 3/9", None)
    assert "missing or invalid" in rows[2]["error"]

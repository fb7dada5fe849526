"""The live report, asked over HTTP and watched in a browser while a run finishes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.errors import refuses
from tests.report.conftest import config, correct, finish
from vitq.errors import VitqError
from vitq.report.serve import server
from vitq.store import Store


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    with server(store, "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def test_the_index_lists_sweeps(address: str) -> None:
    assert '<a href="/sweep/demo">demo: 13 runs: 11 done, 1 planned, 1 failed.' in get(f"{address}/")


def test_a_page_follows_its_runs(address: str, store: Store) -> None:
    before = json.loads(get(f"{address}/version/demo"))
    first = get(f"{address}/sweep/demo")
    assert "connect-src 'self'" in first
    assert before["version"] in first
    assert get(f"{address}/sweep/demo") == first
    finish(store, config("percentile", 6), correct(4))  # the pending one
    after = json.loads(get(f"{address}/version/demo"))
    assert after["version"] != before["version"]
    assert after["counts"] == "13 runs: 12 done, 1 failed"
    assert after["version"] in get(f"{address}/sweep/demo")


@pytest.mark.parametrize("path", ["/sweep/none", "/version/none", "/etc/passwd", "/sweep/", "/sweep/..%2F..%2Fx"])
def test_what_is_not_there_is_said(address: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(address + path)
    assert error.value.code == 404
    assert error.value.read()


def test_a_taken_port_is_named(store: Store) -> None:
    with server(store, "127.0.0.1", 0) as running:
        port = running.server_address[1]
        with refuses(VitqError, key="--port", value=port):
            server(store, "127.0.0.1", port)


def test_the_command_serves_until_ctrl_c(store: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vitq", "serve", "--port", "0", "--runs-dir", str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ | {}) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[0]
            assert "demo" in get(url)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()

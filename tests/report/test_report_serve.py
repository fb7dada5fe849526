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


def test_a_store_is_served_as_by_a_web_server_of_its_folder(address: str, store: Store) -> None:
    """The links of `tracker.store_url`."""
    name = store.read_sweep("demo").signatures[0]
    assert get(f"{address}/sweeps/demo/report.html") == get(f"{address}/sweep/demo")
    assert get(f"{address}/{name}/") == get(f"{address}/run/{name}/")
    assert get(f"{address}/{name}/config.yaml") == store.run(name).config_path.read_text()


@pytest.mark.parametrize(
    "path",
    [
        "/sweeps/none/report.html",
        "/sweeps/demo.json",
        "/0123456789abcdef/",
        "/sweep/none",
        "/version/none",
        "/etc/passwd",
        "/sweep/",
        "/sweep/..%2F..%2Fx",
    ],
)
def test_what_is_not_there_is_said(address: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        get(address + path)
    assert error.value.code == 404
    assert error.value.read()


def test_the_files_of_a_run_can_be_looked_at_and_nothing_else(address: str, store: Store) -> None:
    name = store.read_sweep("demo").signatures[0]
    assert f'<a href="/run/{name}/">files</a>' in get(f"{address}/sweep/demo")
    (store.root / "secret.txt").write_text("secret")
    (store.run(name).path / "link.txt").symlink_to(store.root / "secret.txt")
    listed = get(f"{address}/run/{name}/")
    assert f'<a href="/run/{name}/config.yaml">config.yaml</a>' in listed
    assert "link.txt" not in listed
    assert get(f"{address}/run/{name}/config.yaml") == store.run(name).config_path.read_text()
    for path in ("../secret.txt", "..%2Fsecret.txt", "link.txt", "none.txt"):
        with pytest.raises(urllib.error.HTTPError) as error:
            get(f"{address}/run/{name}/{path}")
        assert error.value.code == 404
    with pytest.raises(urllib.error.HTTPError):
        get(f"{address}/run/sweeps/demo.json")


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

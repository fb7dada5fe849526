"""A W&B server of one page: enough of its API for a run to start, be refused, and finish. Speaks HTTP on localhost."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Arrived:
    """What of a run arrived."""

    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    group: str | None = None
    exit_code: int | None = None


class FakeWandb:
    """What it was told, and whom it refuses.

    deleted: ids refused, as W&B refuses those of deleted runs. broken: ids for which it is out of order. hanging: ids
    that get no answer until `released`. upserted: ids asked for, in order. runs: what arrived of each id.
    """

    def __init__(self, deleted: set[str] | None = None):
        self.deleted = deleted or set()
        self.broken: set[str] = set()
        self.hanging: set[str] = set()
        self.released = threading.Event()
        self.upserted: list[str] = []
        self.runs: dict[str, Arrived] = {}
        self.url = ""

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        """A run's file stream: lines of its history and summary, and how it ended."""
        run = self.runs.setdefault(run_id, Arrived())
        for name, chunk in (body.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]]
            if "summary" in name:
                run.summary.update(lines[-1])
            elif "history" in name:
                run.history += lines
        if body.get("complete"):
            run.exit_code = body.get("exitcode")

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        query, variables = request.get("query", ""), request.get("variables") or {}
        if "upsertBucket" in query:
            name = str(variables["name"])
            if not self.upserted or self.upserted[-1] != name:
                self.upserted.append(name)
            if name in self.hanging:
                self.released.wait(60)
            if name in self.broken:
                return 500, {"errors": [{"message": "out of order"}]}
            if name in self.deleted:
                text = f"run lab/vitq/{name} was previously created and deleted; try a new run name (<Response [409]>)"
                return 409, {"errors": [{"message": text}]}
            run = self.runs.setdefault(name, Arrived())
            run.config.update(json.loads(variables.get("config") or "{}"))
            run.group = variables.get("groupName") or run.group
            project = {"id": "p", "name": "vitq", "entity": {"id": "e", "name": "lab"}}
            bucket = {"id": "b", "name": name, "displayName": "", "description": "", "config": "{}", "project": project}
            return 200, {"data": {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return 200, {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        return 400, {"errors": [{"message": "not a part of this fake"}]}


@contextmanager
def serve(server: FakeWandb) -> Iterator[FakeWandb]:
    """Run the server on a free port; its address is `server.url`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """No lines on stderr."""

        def _read(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def _reply(self, code: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = json.loads(self._read() or b"{}")
            if self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], body)
            self._reply(*(server.answer(body) if self.path == "/graphql" else (200, {})))

        def do_PUT(self) -> None:
            self._read()
            self._reply(200, {})

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that hang up are no news."""

    with Server(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            http.shutdown()
            thread.join()

"""The reports of a store, live: a page is drawn anew when a run of its sweep has moved."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from vitq import report
from vitq.errors import StoreError, VitqError
from vitq.report import wording
from vitq.report.contents import Report
from vitq.report.page import page
from vitq.store import Store

# Milliseconds between two questions of an open page.
POLL = 2000


# What a browser shows by itself, by the end of a file's name; everything else is downloaded.
_KINDS = {".yaml": "text/plain", ".txt": "text/plain", ".json": "text/plain", ".png": "image/png"}


class Pages:
    """Pages of one store, each kept until a file of its sweep changes. Thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._pages: dict[str, tuple[str, str]] = {}

    def index(self) -> str:
        """The list of sweeps. Raises StoreError when the store cannot be read."""
        items = []
        records, broken = self._store.read_sweeps()
        for record in records:
            counts = wording.counts(report.table(self._store, record.name))
            text = html.escape(f"{record.name}: {counts}. {record.description}")
            items.append(f'<li><a href="/sweep/{quote(record.name)}">{text}</a></li>')
        items += [f"<li>{html.escape(f'{name}: {error}')}</li>" for name, error in broken.items()]
        body = f"<ul>{''.join(items)}</ul>" if items else "<p>No sweep was started with this store yet.</p>"
        root = html.escape(str(self._store.root))
        return _page("vitq", f"<h1>Sweeps in {root}</h1>{body}")

    def sweep(self, name: str) -> str:
        """The page of a sweep, with a script that watches for changes. Raises StoreError for an unknown sweep."""
        version = self.version(name)
        with self._lock:
            known = self._pages.get(name)
            if known is None or known[0] != version:
                live = {"version": version, "name": quote(name), "poll": POLL}
                known = self._pages[name] = (version, page(Report.of(self._store, name), live))
        return known[1]

    def run(self, name: str) -> tuple[bytes, str]:
        """`SIGNATURE/`, the list of a run's files, or `SIGNATURE/FILE`: (content, type). Raises StoreError for a run or
        a file that is not there: nothing else of this machine is shown."""
        signature, _, wanted = name.partition("/")
        if signature not in self._store.signatures():
            raise StoreError(f"no run {signature!r} in {self._store.root}", "signature", signature)
        folder = self._store.run(signature).path
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if _plain(path)}
        if not wanted:
            items = "".join(
                f'<li><a href="/run/{signature}/{quote(name)}">{html.escape(name)}</a></li>' for name in files
            )
            return _page(signature, f"<h1>{signature}</h1><ul>{items}</ul>").encode(), "text/html"
        if wanted not in files:
            raise StoreError(f"run {signature} has no file {wanted!r}", "file", wanted, files)
        return files[wanted].read_bytes(), _KINDS.get(files[wanted].suffix, "application/octet-stream")

    def version(self, name: str) -> str:
        """Changes with every result, failure and artifact of a sweep; not with the progress inside a stage."""
        signatures = self._store.read_sweep(name).signatures
        return f"{hash((name, tuple(signatures), *map(self._state, signatures))) & (2**64 - 1):016x}"

    def counts(self, name: str) -> str:
        """`14 runs: 12 done, 2 planned`."""
        return wording.counts(report.table(self._store, name))

    def _state(self, signature: str) -> tuple[object, ...]:
        run = self._store.run(signature)
        status = run.status_hint()
        return (_changed(run.result_path), _changed(run.probes_dir), status.state if status else None)


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f"<title>{title}</title></head><body>{body}</body></html>"
    )


def _plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def server(store: Store, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is bound and not yet serving; port 0 takes a free one. Raises VitqError when it cannot bind."""
    pages = Pages(store)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = path = unquote(urlsplit(self.path).path)
            # As a web server of the store's folder has it: `tracker.store_url` may lead to either.
            if report_of := re.fullmatch(r"/sweeps/([^/]+)/report\.html", path):
                path = f"/sweep/{report_of[1]}"
            elif re.match(r"/[0-9a-f]{16}/", path):
                path = f"/run{path}"
            routes: dict[str, Callable[[str], tuple[str | bytes, str]]] = {
                "run": pages.run,
                "sweep": lambda name: (pages.sweep(name), "text/html"),
                "version": lambda name: (
                    json.dumps({"version": pages.version(name), "counts": pages.counts(name)}), "application/json",
                ),
            }  # fmt: skip
            _, kind, name = [*path.split("/", 2), "", ""][:3]
            try:
                if path == "/":
                    self._answer(pages.index(), "text/html")
                elif kind in routes and name:
                    self._answer(*routes[kind](name))
                else:
                    self._answer(f"no page {asked}; / lists the sweeps\n", "text/plain", HTTPStatus.NOT_FOUND)
            except StoreError as error:
                self._answer(f"{error}\n", "text/plain", HTTPStatus.NOT_FOUND)
            except BrokenPipeError:
                return  # the reader went away

        def _answer(self, content: str | bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
            body = content.encode() if isinstance(content, str) else content
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not worth a line each; the page polls."""

    try:
        return ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise VitqError(
            f"cannot serve on {host}:{port}: {error.strerror or error}; choose another one with --port, 0 for any",
            "--port",
            port,
        ) from error

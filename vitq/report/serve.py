"""The reports of a store, live: a page is drawn anew when a run of its sweep has moved."""

from __future__ import annotations

import html
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from vitq import report
from vitq.errors import StoreError, VitqError
from vitq.report import wording
from vitq.report.comparison import pairwise
from vitq.report.page import page
from vitq.report.paired_test import paired
from vitq.store import Store

# Seconds between two questions of an open page.
POLL = 2.0

# Reloads when the answer changes; where the reader scrolled to and what they chose is kept by the browser.
_RELOAD = """<script>
"use strict";
{
  let seen = "%(version)s";
  const keep = "vitq " + location.pathname, old = JSON.parse(sessionStorage.getItem(keep) ?? "{}");
  for (const [id, chosen] of Object.entries(old.selects ?? {})) {
    const select = document.getElementById(id);
    if (select) { select.value = chosen; select.dispatchEvent(new Event("change")); }
  }
  if (old.y) requestAnimationFrame(() => scrollTo(0, old.y));
  const bar = document.createElement("p");
  bar.className = "note";
  bar.id = "live";
  document.querySelector("header").append(bar);
  const ask = async () => {
    try {
      const answer = await (await fetch("/version/%(name)s", { cache: "no-store" })).json();
      bar.textContent = "live: " + answer.counts;
      if (answer.version !== seen) {
        const selects = Object.fromEntries([...document.querySelectorAll("select[id]")].map((s) => [s.id, s.value]));
        sessionStorage.setItem(keep, JSON.stringify({ y: scrollY, selects }));
        location.reload();
      }
    } catch { bar.textContent = "the server does not answer; this is the last state seen"; }
  };
  setInterval(ask, %(poll)d);
  ask();
}
</script>
</body>"""


class Site:
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
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
            f"<title>vitq</title></head><body><h1>Sweeps in {root}</h1>{body}</body></html>"
        )

    def sweep(self, name: str) -> str:
        """The page of a sweep, with a script that watches for changes. Raises StoreError for an unknown sweep."""
        version = self.version(name)
        with self._lock:
            known = self._pages.get(name)
            if known is None or known[0] != version:
                record, df = self._store.read_sweep(name), report.table(self._store, name)
                comparisons = paired(self._store, df, record.baseline) if record.baseline else None
                text = page(self._store, record, df, comparisons, pairwise(self._store, df))
                text = text.replace("default-src 'none';", "default-src 'none'; connect-src 'self';", 1)
                script = _RELOAD % {"version": version, "name": quote(name), "poll": 1000 * POLL}
                head, _, tail = text.rpartition("</body>")
                known = self._pages[name] = (version, head + script + tail)
        return known[1]

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


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def server(store: Store, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is bound and not yet serving; port 0 takes a free one. Raises VitqError when it cannot bind."""
    site = Site(store)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place = unquote(urlsplit(self.path).path)
            routes: dict[str, Callable[[str], tuple[str, str]]] = {
                "sweep": lambda name: (site.sweep(name), "text/html"),
                "version": lambda name: (
                    json.dumps({"version": site.version(name), "counts": site.counts(name)}), "application/json",
                ),
            }  # fmt: skip
            _, kind, name = [*place.split("/", 2), "", ""][:3]
            try:
                if place == "/":
                    self._answer(site.index(), "text/html")
                elif kind in routes and name:
                    self._answer(*routes[kind](name))
                else:
                    self._answer(f"no page {place}; / lists the sweeps\n", "text/plain", HTTPStatus.NOT_FOUND)
            except StoreError as error:
                self._answer(f"{error}\n", "text/plain", HTTPStatus.NOT_FOUND)
            except BrokenPipeError:
                return  # the reader went away

        def _answer(self, text: str, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
            body = text.encode()
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

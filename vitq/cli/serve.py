"""`vitq serve`: the reports of a store, live in a browser while sweeps run."""

from __future__ import annotations

import argparse

from vitq.cli import options

EXAMPLES = """\
  vitq serve                          http://127.0.0.1:8765
  vitq serve --port 0 --runs-dir ~/runs
  ssh -L 8765:127.0.0.1:8765 LOGIN-NODE     then open http://127.0.0.1:8765 at home
"""


def parser() -> argparse.ArgumentParser:
    parser = options.parser("serve", "Show the reports of all sweeps of a store, live, until Ctrl-C.", EXAMPLES)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; the default is this machine alone")
    parser.add_argument("--port", type=int, default=8765, help="0 takes a free one (default: 8765)")
    return options.add(parser, "--runs-dir")


def main(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C. Raises VitqError when the address is taken."""
    from vitq.report.serve import server
    from vitq.store import Store

    with server(Store(args.runs_dir), args.host, args.port) as running:
        host, port = running.server_address[:2]
        print(f"http://{host if isinstance(host, str) else host.decode()}:{port}   (Ctrl-C ends)", flush=True)
        running.serve_forever()
    return 0

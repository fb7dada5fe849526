"""Images that changed after a run had its result, where names and sizes alone stand for them."""

from __future__ import annotations

from vitq.config import RunConfig
from vitq.planning.facts import Facts
from vitq.planning.wording import count
from vitq.store import RunDir


class NewerImages:
    """Finished runs of a plan that are older than their images."""

    def __init__(self, facts: Facts):
        self._facts = facts
        self._older: dict[str, int] = {}  # data.root → how many runs

    def look(self, config: RunConfig, done: RunDir) -> None:
        """Compare the dates of a finished run and of its images."""
        if self._facts.newest_image(config) > done.result_path.stat().st_mtime:
            root = str(config.data.root)
            self._older[root] = self._older.get(root, 0) + 1

    def warnings(self) -> list[str]:
        """A line for each root: an edit that keeps an image's size keeps the signature, and so the result."""
        why = "and they are known by names and sizes; --again computes anew"
        return [
            f"data.root={root}: images were changed, or copied, after {count(number, 'run')} finished, {why}"
            for root, number in self._older.items()
        ]

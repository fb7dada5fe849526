"""What `vitq probe` shows while it looks, on a terminal and in a file, and what it says at its end."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import pytest
from matplotlib.figure import Figure
from pydantic.dataclasses import dataclass

from tests.job.planner import Planner
from vitq import cli
from vitq.config import RunConfig
from vitq.config.base import RULES
from vitq.planning import display
from vitq.probes.budget import PartialResults
from vitq.probes.probe import PROBES, Probe
from vitq.probes.probed_model import Subject

PIECES = 4


@dataclass(frozen=True, config=RULES)
class Counting(Probe):
    """Measures nothing, piece by piece."""

    after_each: ClassVar[Callable[[int], None]] = lambda number: None

    def passes(self, config: RunConfig) -> float:
        return 1

    def measure(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        for number in range(1, PIECES + 1):
            partial.tick(f"piece {number}")
            type(self).after_each(number)
        return {"pieces": np.array(PIECES)}

    def draw(self, arrays: dict[str, np.ndarray], title: str) -> Figure:
        return Figure()


@dataclass(frozen=True, config=RULES)
class Falling(Counting):
    def measure(self, subject: Subject, partial: PartialResults) -> dict[str, np.ndarray]:
        raise RuntimeError("it fell down")


@pytest.fixture(autouse=True)
def two_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PROBES, "_items", {**PROBES._items, "counting": Counting, "falling": Falling})


@pytest.fixture
def words(planner: Planner) -> list[str]:
    run_dir = planner.plan()
    planner.execute(run_dir)
    return ["probe", run_dir.signature, "probe.images=8", "--runs-dir", str(planner.store.root)]


class Terminal:
    """A pseudo-terminal as the error stream; `text` is what it was sent, escape codes taken out."""

    def __init__(self) -> None:
        self._master, slave = os.openpty()
        self._raw = ""
        self.stream = os.fdopen(slave, "w")
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while chunk := os.read(self._master, 4096):
                self._raw += chunk.decode(errors="replace")
        except OSError:  # its other end is closed
            return

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._raw)

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + 60
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, f"no {pattern} in {self.text[-500:]!r}"
            time.sleep(0.01)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Terminal]:
    opened = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    yield opened
    opened.stream.close()


def test_each_piece_is_seen_on_a_terminal(
    words: list[str], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe goes on only once the terminal shows its last piece."""
    shown: list[int] = []

    def wait(number: int) -> None:
        terminal.wait_for(rf"probe counting\s+piece {number}\b.*\b{number}/{PIECES}")
        shown.append(number)

    monkeypatch.setattr(sys, "stderr", terminal.stream)  # not in the fixture: capsys puts its own there after it
    monkeypatch.setattr(Counting, "after_each", wait)
    assert cli.main([*words, "probe.names=[counting]"]) == 0
    assert shown == [1, 2, 3, 4]


def test_lines_of_a_file_count_the_pieces(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "_QUIET_SECONDS", -1.0)
    assert cli.main([*words, "probe.names=[counting]"]) == 0
    said = capsys.readouterr().err
    counts = re.findall(r"probe counting (\d+) piece (\d+)", said)
    assert counts == [(str(number), str(number)) for number in range(1, PIECES + 1)]
    assert "\x1b" not in said


def _end(text: str) -> tuple[int, int, dict[str, int]]:
    """(probes, runs, {state: count}) of the closing sentence."""
    found = re.fullmatch(r"(\d+) probes? of (\d+) runs?: (.*)", text.splitlines()[-1])
    assert found is not None, text
    states = {}
    for part in found[3].split(", "):
        count, state = part.split(" ", 1)
        states[state] = int(count)
    return int(found[1]), int(found[2]), states


def test_the_closing_sentence_counts_what_became_of_them(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "probe.names=[counting]"]) == 0
    assert _end(capsys.readouterr().out) == (1, 1, {"done": 1})
    assert cli.main([*words, "probe.names=[counting,falling]"]) == 1
    assert _end(capsys.readouterr().out) == (2, 1, {"there before": 1, "failed": 1})
    assert cli.main([*words, "probe.names=[counting]", "--again", "probe.max_seconds=1e-9"]) == 0
    assert _end(capsys.readouterr().out) == (1, 1, {"not finished within probe.max_seconds": 1})

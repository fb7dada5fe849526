"""docs/days.md is what its commands print today, but for figures, which depend on the machine."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from vitq.track.session import drop_service


def shape(page: str) -> list[str]:
    """The page without its figures and the widths of its tables."""
    # Which differences are shown depends on the figures.
    page = re.sub(r"(calibration images: ).*(no difference shown|is better|is worse).*", r"\1", page)
    lines = re.sub(r"[-+−<]?\d[\d.,]*(e-\d+)?", "0", page).splitlines()
    return [re.sub(r"[─━┏┓┡┩│┃\s]+", " ", line).strip() for line in lines]


@pytest.mark.slow
def test_the_recording_is_up_to_date(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python docs/days.py` writes it."""
    spec = importlib.util.spec_from_file_location("days", repo / "docs" / "days.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "days", script)  # dataclasses look their module up
    spec.loader.exec_module(script)
    try:
        recorded = script.record(tmp_path)
    finally:
        drop_service()  # W&B's, which would serve later tests with the settings of this one
    assert shape(recorded) == shape(script.PAGE.read_text(encoding="utf-8"))
    assert str(tmp_path) not in recorded

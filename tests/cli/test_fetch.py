"""`vitq fetch`: which weights a sweep needs from the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.models.test_hub_cache import REPOSITORY, put
from vitq.cli import main
from vitq.models import load

# Of the sweep's cells one for each model.
ONE = ("method=minmax", "bits=w4a4")


def test_each_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    loaded: list[str] = []
    monkeypatch.setattr(load, "load_model", lambda model, *_: loaded.append(model.name))
    put(tmp_path, REPOSITORY)
    assert main(["fetch", "demo", *ONE, "model=deit_tiny,deit_small,vit_digits"]) == 0
    small = "deit_small_patch16_224.fb_in1k"
    assert loaded == [small]
    told = dict(line.rsplit("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert told == {"deit_tiny_patch16_224.fb_in1k": "in the cache", small: "downloaded"}


def test_nothing_to_fetch_and_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "demo", *ONE]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["fetch", "demo", *ONE, "bits.weight=99"]) == 2
    assert "bits.weight=99" in capsys.readouterr().err

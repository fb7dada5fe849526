"""The schema of result.json and status.json."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vitq.store.record import utc_now
from vitq.store.result import Result
from vitq.store.status import Status

GOLDEN = Path(__file__).parent / "golden" / "result.json"


def raw(**changes: Any) -> dict[str, Any]:
    """The golden result as a plain dict, with changes."""
    plain: dict[str, Any] = json.loads(GOLDEN.read_text())
    return plain | changes


def metrics(**changes: Any) -> dict[str, Any]:
    return {**raw()["metrics"], **changes}


def test_round_trip() -> None:
    result = Result(**raw())
    assert Result.model_validate(json.loads(result.to_json())) == result
    assert result.nonfinite == []


def test_the_shape_of_the_record_is_pinned() -> None:
    """A change here is a change of what scripts read: raise RESULT_VERSION with it, but for a new optional field."""
    assert Result(**raw()).to_json() == GOLDEN.read_text()


def test_records_without_the_optional_fields_stay_valid() -> None:
    plain = raw()
    del plain["cost"]
    assert Result(**plain).cost is None


def test_equal_results_are_equal_bytes_whatever_the_order_of_keys() -> None:
    plain = raw()
    backwards = dict(reversed(list(plain.items())))
    assert Result(**plain).to_json() == Result(**backwards).to_json()


@given(values=st.lists(st.floats(), min_size=4, max_size=4))
def test_any_float_survives_or_is_named(values: list[float]) -> None:
    names = ["top1", "nll", "kl", "drop"]
    result = Result(**raw(metrics=metrics(**dict(zip(names, values, strict=True)))))
    text = result.to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    back = Result.model_validate(json.loads(text))
    assert back == result
    for name, value in zip(names, values, strict=True):
        if math.isfinite(value):
            assert getattr(back.metrics, name) == value
            assert f"metrics.{name}" not in back.nonfinite
        else:
            assert getattr(back.metrics, name) is None
            assert f"metrics.{name}" in back.nonfinite


def test_nonfinite_in_the_config_is_named_with_its_key() -> None:
    result = Result(**raw(config={"method": {"steps": {"a": {"limits": [1.0, math.inf]}}}}))
    assert result.nonfinite == ["config.method.steps.a.limits.1"]
    assert result.config["method"]["steps"]["a"]["limits"] == [1.0, None]


def test_records_inside_are_cleaned_too() -> None:
    from vitq.store.metrics import Metrics

    result = Result(**raw(metrics=Metrics(**metrics(kl=math.nan))))
    assert result.metrics.kl is None
    assert result.nonfinite == ["metrics.kl"]


def test_numpy_scalars_are_stored_as_numbers() -> None:
    result = Result(
        **raw(metrics=metrics(top1=np.float32(90.5), n_eval=np.int64(7)), config={"flag": True, "x": np.float32(2)})
    )
    stored = json.loads(result.to_json())
    assert stored["metrics"]["top1"] == 90.5
    assert stored["metrics"]["n_eval"] == 7
    assert stored["config"] == {"flag": True, "x": 2.0}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"signatur": "x"}, "signatur"),
        ({"metrics": {"top1": 1.0}}, "metrics.top5"),
        ({"schema_version": 2}, "schema_version"),
        ({"metrics": metrics(n_eval=-1)}, "metrics.n_eval"),
        ({"metrics": metrics(top1="high")}, "metrics.top1"),
        ({"size": raw()["size"] | {"mean_weight_bits": math.nan}}, "size.mean_weight_bits"),
        ({"provenance": raw()["provenance"] | {"started_at": "2026-11-20T12:00:00"}}, "provenance.started_at"),
        ({"provenance": raw()["provenance"] | {"finished_at": "yesterday"}}, "provenance.finished_at"),
    ],
)
def test_invalid_results_name_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Result(**raw(**changes))
    assert field in [".".join(map(str, e["loc"])) for e in caught.value.errors()]


def test_results_are_frozen() -> None:
    with pytest.raises(ValidationError):
        setattr(Result(**raw()), "signature", "other")  # noqa: B010  (mypy forbids the plain spelling)


def test_status_defaults_and_one_line_errors() -> None:
    status = Status(state="failed", error="ValueError: a\n  b\r\n\tc", traceback="Traceback\n  x")
    assert status.error == "ValueError: a b c"
    assert status.traceback == "Traceback\n  x"
    assert Status.model_validate(json.loads(status.to_json())) == status
    with pytest.raises(ValidationError) as caught:
        Status(state="finished")
    (error,) = caught.value.errors()
    assert (error["loc"], error["input"]) == (("state",), "finished")
    assert "'planned'" in error["ctx"]["expected"]


def test_utc_now_has_a_zone() -> None:
    assert utc_now().endswith("+00:00")

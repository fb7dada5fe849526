"""Numbers beside a landscape, against what analysis says of known functions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.errors import refuses
from vitq.probes import landscape_scalars

numbers = st.integers(-5000, 5000).map(lambda n: n / 100)
lines = st.lists(numbers, min_size=3, max_size=40)


@given(numbers, numbers, numbers, st.integers(1, 20), st.floats(0.1, 3))
def test_curvature_of_a_parabola_is_twice_its_leading_coefficient(
    a: float, b: float, c: float, half: int, span: float
) -> None:
    x = landscape_scalars.axis(2 * half + 1, span)
    assert landscape_scalars.curvature(x, a * x**2 + b * x + c) == pytest.approx(2 * a, abs=1e-6 * (half / span) ** 2)


@given(lines)
def test_roughness_is_one_for_monotone_lines_and_grows_with_every_detour(values: list[float]) -> None:
    line = np.array(values)
    rough = landscape_scalars.roughness(line)
    if line.max() == line.min():
        assert rough == 0
        return
    assert rough >= 1 - 1e-12
    assert landscape_scalars.roughness(np.sort(line)) == pytest.approx(1)
    assert landscape_scalars.roughness(7 * line + 3) == pytest.approx(rough, rel=1e-6)


def test_roughness_of_a_valley_and_of_a_sawtooth() -> None:
    x = landscape_scalars.axis(21, 1.0)
    assert landscape_scalars.roughness(x**2) == pytest.approx(2)
    assert landscape_scalars.roughness(np.tile([0.0, 1.0], 5)) == pytest.approx(9)
    bowl = x[:, None] ** 2 + x[None] ** 2
    assert landscape_scalars.roughness(bowl) == pytest.approx(2)
    waves = bowl + 0.3 * np.sin(40 * x)[None]
    assert landscape_scalars.roughness(waves) > 2.2


def test_sharpness_is_the_rise_inside_the_radius() -> None:
    x, y = landscape_scalars.axis(21, 1.0), landscape_scalars.axis(11, 2.0)
    values = 3 * x[None] ** 2 + 0.5 * y[:, None] ** 2 + 7
    assert landscape_scalars.sharpness(x, y, values, 0.5) == pytest.approx(3 * 0.25)
    assert landscape_scalars.sharpness(x, y, -values, 0.5) == 0
    with refuses(ValueError, key="points", value=4):
        landscape_scalars.sharpness(np.linspace(-1, 1, 4), y, values[:, :4], 0.5)


@given(lines)
def test_barrier_is_above_the_straight_line_and_none_for_convex_paths(values: list[float]) -> None:
    line = np.array(values)
    height = landscape_scalars.barrier(line)
    assert height >= 0
    t = np.linspace(0, 1, len(line))
    assert np.all(line <= (1 - t) * line[0] + t * line[-1] + height + 1e-9)
    convex = (t - 0.3) ** 2
    assert landscape_scalars.barrier(convex) == pytest.approx(0, abs=1e-12)
    assert landscape_scalars.barrier(convex + np.where((t > 0) & (t < 1), 1.0, 0.0)) > 0.5


def test_minima_are_counted() -> None:
    x = landscape_scalars.axis(21, 1.0)
    assert landscape_scalars.minima(x[:, None] ** 2 + x[None] ** 2) == 1
    two = np.minimum((x - 0.5)[None] ** 2, (x + 0.5)[None] ** 2) + x[:, None] ** 2
    assert landscape_scalars.minima(two) == 2
    assert landscape_scalars.minima(np.zeros((5, 5))) == 0

"""Numbers beside a landscape: how sharp, how curved, how rough, how high the barrier."""

from __future__ import annotations

import numpy as np

from vitq.errors import Problem


def of_plane(name: str, x: np.ndarray, y: np.ndarray, values: np.ndarray, radius: float) -> dict[str, np.ndarray]:
    """The numbers of (N, M) values around a point as `name.scalar.…`: sharpness within a radius, the curvatures along
    both axes, roughness, number of minima."""
    numbers: dict[str, object] = {
        "sharpness": sharpness(x, y, values, radius),
        "curvature": [curvature(x, values[zero(y)]), curvature(y, values[:, zero(x)])],
        "roughness": roughness(values),
        "minima": minima(values),
    }
    return {f"{name}.scalar.{number}": np.array(value) for number, value in numbers.items()}


def sharpness(x: np.ndarray, y: np.ndarray, values: np.ndarray, radius: float) -> float:
    """Largest rise above the centre within a distance: max over x² + y² ≤ ρ² of L(x, y) − L(0, 0), never negative.

    x: (M,) and y: (N,), both with a zero; values: (N, M). Raises ValueError where a coordinate has no zero.
    """
    centre = values[zero(y), zero(x)]
    inside = np.hypot(*np.meshgrid(x, y)) <= radius * (1 + 1e-9)
    return float((values[inside] - centre).max())


def curvature(x: np.ndarray, values: np.ndarray) -> float:
    """Second derivative at zero by central differences: (L(h) − 2·L(0) + L(−h)) / h², h the grid's step.

    x: (M,), evenly spaced, with a zero that is not at the end; values: (M,).
    """
    middle = zero(x)
    if middle in (0, len(x) - 1):
        raise ValueError("the curvature at zero needs a point on either side of it")
    step = float(x[middle + 1] - x[middle])
    return float((values[middle + 1] - 2 * values[middle] + values[middle - 1]) / step**2)


def roughness(values: np.ndarray) -> float:
    """Total variation over range: Σ|L[i+1] − L[i]| / (max L − min L), along each line of a grid and summed over lines.

    1 for a monotone line, at most 2 for one with a single valley, more where the loss goes up and down; 0 for a
    constant one. It does not depend on the loss's scale or unit. values: (M,), or (N, M), whose rows and columns are
    the lines.
    """
    directions = (values, values.T) if values.ndim == 2 else (values[None],)
    variation = sum(float(np.abs(np.diff(lines, axis=1)).sum()) for lines in directions)
    extent = sum(float((lines.max(axis=1) - lines.min(axis=1)).sum()) for lines in directions)
    return variation / extent if extent > 0 else 0.0


def barrier(values: np.ndarray) -> float:
    """Height above the straight line between both ends: max over t of L(t) − ((1 − t)·L(0) + t·L(1)), at least 0.

    values: (M,), evenly spaced from one end to the other.
    """
    straight = np.linspace(values[0], values[-1], len(values))
    return max(0.0, float((values - straight).max()))


def minima(values: np.ndarray) -> int:
    """Grid points inside the border of (N, M) values that are lower than all their eight neighbours."""
    inner = values[1:-1, 1:-1]
    rows, columns = values.shape
    lower = np.ones_like(inner, dtype=bool)
    for i in (0, 1, 2):
        for j in (0, 1, 2):
            if (i, j) != (1, 1):
                lower &= inner < values[i : rows - 2 + i, j : columns - 2 + j]
    return int(lower.sum())


def zero(x: np.ndarray) -> int:
    """Position of the coordinate that is zero. Raises ValueError where there is none."""
    middle = int(np.abs(x).argmin())
    if abs(float(x[middle])) > 1e-12:
        text = "a landscape around a point needs a grid that contains it; give an odd number of points"
        raise ValueError(Problem(text, "points", len(x)))
    return middle


def axis(points: int, span: float) -> np.ndarray:
    """(points,) from −span to span; the middle one is zero exactly."""
    half = points // 2
    coordinates: np.ndarray = np.arange(-half, half + 1) / half * span
    return coordinates

"""What a stored probe says of itself. Free of torch: reports and the W&B mirror read it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# Name of the array that holds what is no number: JSON.
META = "meta"


def meta_of(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """probe, version, options, asked_images, images, fingerprint, device, run, passes, seconds, made_at."""
    meta: dict[str, Any] = json.loads(str(arrays[META]))
    return meta


def scalars_of(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """The numbers beside a landscape, `random.sharpness`, `block.tensor.roughness`, one for each axis of curvatures; of
    a Hessian those of the whole model, `model.trace`, `model.eigenvalues.0`. What was not measured is left out."""
    scalars: dict[str, float] = {}
    for name, array in arrays.items():
        if ".scalar." in name or name.startswith("model."):
            key = name.replace(".scalar.", ".")
            values = array.ravel().tolist()
            scalars |= {key: values[0]} if len(values) == 1 else {f"{key}.{i}": v for i, v in enumerate(values)}
    return {key: value for key, value in scalars.items() if not math.isnan(value)}

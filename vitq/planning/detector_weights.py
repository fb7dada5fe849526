"""Where the weights of the papers' detectors lie: one file for one model, or a folder with the files as released."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from vitq.errors import ConfigError, Problem, VitqError
from vitq.planning.quoting import quoted

# Of Swin-Transformer-Object-Detection, releases v1.0.2.
RELEASED = "{}_patch4_window7.pth"
_KEY = "model.checkpoint"


def detector_weights(models: Sequence[str], folder: str | None, overrides: Sequence[str]) -> dict[str, list[str]]:
    """Model → the override that names its weights, none where the command line's own does.

    folder: holds `MODEL_patch4_window7.pth` of each. Raises VitqError for several models and one file, and where
    nothing names weights; ConfigError with all files that are missing.
    """
    files = [word for word in overrides if word.lstrip("+").startswith(f"{_KEY}=")]
    if files and (folder is not None or len(models) > 1):
        text = f"{files[0]}: one file for {', '.join(models)}; --model names one, --checkpoints a folder of all"
        if folder is not None:
            text = f"{files[0]} and --checkpoints {folder} both say where weights lie; leave one out"
        raise VitqError(text, _KEY, files[0].partition("=")[2])
    if folder is not None:
        paths = {model: Path(folder, RELEASED.format(model)) for model in models}
        missing = [f"--checkpoints: {path} does not exist" for path in paths.values() if not path.is_file()]
        if missing:
            raise ConfigError(Problem(text, "--checkpoints", folder) for text in missing)
        return {model: shlex.split(quoted(_KEY, str(path))) for model, path in paths.items()}
    if not files:
        text = (
            f"{', '.join(models)}: detectors have no weights on the hub; --checkpoints DIR, a folder with "
            f"{RELEASED.format(models[0])}, or {_KEY}=FILE with one --model"
        )
        raise VitqError(text, _KEY)
    return {model: [] for model in models}

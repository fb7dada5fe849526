"""Weights from a file, as labs have them: under a key, behind a prefix, in an older naming."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitq.data.content import LFS
from vitq.errors import ModelError, Problem, first_line, shortened, unknown

if TYPE_CHECKING:
    import torch
    from torch import nn

_SHOWN = 5  # keys named in an error
# Where training scripts put the weights, in timm's order.
_USUAL = ("state_dict", "model")
# Keys above another one, at most.
_DEPTH = 2


def fitting(network: nn.Module, path: Path, key: str | None) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A file's weights under the network's names, and what was done to them, in words.

    key: `model.checkpoint_key`. Where names or shapes differ, a common prefix is taken off, then the checkpoint filter
    of the model's timm module applied, which knows older names and resamples to other image and patch sizes.
    Raises ModelError for weights that differ from the network's even then.
    """
    state, notes = _read(path, key)
    own = network.state_dict()
    if _misfits(own, state):
        state, more = _without_prefix(own, state, path)
        notes += more
    if not getattr(network, "num_classes", 1):
        state, more = _without_head(own, state)
        notes += more
    if _misfits(own, state):
        before = {name: tuple(value.shape) for name, value in state.items()}
        filtered = _filter(network)
        if filtered is not None:
            try:
                state = dict(filtered(dict(state), network))
            except (KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
                raise ModelError(_not_fitting(path, network, _misfits(own, state))) from error
        notes += _resampled(own, before)
    wrong = _misfits(own, state)
    if wrong:
        raise ModelError(_not_fitting(path, network, wrong))
    # Codes of a quantized file: without its scales they are no weights, and they would load as numbers.
    codes = [n for n, value in own.items() if value.is_floating_point() and not state[n].is_floating_point()]
    if codes:
        text = f"checkpoint {str(path)!r} holds whole numbers in place of weights ({shortened(codes, _SHOWN)})"
        raise ModelError(f"{text}; give the weights before they were quantized", "model.checkpoint", str(path))
    return state, [f"checkpoint {str(path)!r}: {note}" for note in notes]


def _read(path: Path, key: str | None) -> tuple[dict[str, torch.Tensor], list[str]]:
    import torch
    from timm.models import clean_state_dict

    content = _load(path)
    direct = [name for name, value in content.items() if isinstance(name, str) and _has_tensors(value)]
    holders = direct or list(_holders(content))
    notes = []
    if key is not None:
        state: Any = _under(content, key, path, holders)
    elif _has_tensors(content):
        state = content
    else:
        usual = [name for name in holders if {*name.split(".")} <= {*_USUAL}] or holders
        usual.sort(key=lambda name: _USUAL.index(name) if name in _USUAL else len(_USUAL))
        if len(usual) > 1 and usual[0] not in _USUAL:
            text = f"checkpoint {str(path)!r} holds weights under {', '.join(holders)}"
            raise ModelError(f"{text}; set model.checkpoint_key to one", "model.checkpoint_key", valid=holders)
        state = _under(content, usual[0], path, holders) if usual else {}
        if others := [name for name in holders if name != usual[0]]:
            notes.append(
                f"the weights under {usual[0]!r} are read, those under {', '.join(others)} are not; "
                f"model.checkpoint_key={others[0]} reads the others"
            )
        elif usual and usual[0] not in _USUAL:  # also one within another: `state_dict.model`
            notes.append(f"the weights under {usual[0]!r} are read")
    tensors = {n: value for n, value in clean_state_dict(dict(state)).items() if isinstance(value, torch.Tensor)}
    if not tensors:
        text = f"checkpoint {str(path)!r} holds no tensors at its top level, under `model` or under `state_dict`"
        keys = shortened(list(content), _SHOWN) or "none"
        raise ModelError(f"{text}; its keys: {keys}", "model.checkpoint", list(content))
    return tensors, notes


def _load(path: Path) -> Mapping[Any, Any]:
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with _harmless():
            content = torch.load(path, map_location="cpu", weights_only=True)
        return content if isinstance(content, Mapping) else {}
    except Exception as error:  # safetensors, zip and pickle each have their own errors for a broken file
        said = re.sub(r"\x1b\[\d*m", "", first_line(error, "no message"))  # torch's is in bold here and there
        reason = f"{type(error).__name__}: {said}"
        if path.is_file() and path.read_bytes()[: len(LFS)] == LFS:
            text = f"checkpoint {str(path)!r} is a pointer of Git LFS; get the weights themselves with `git lfs pull`"
            raise ModelError(text, "model.checkpoint", str(path), action="git lfs pull") from error
        if path.is_file() and (what := _no_weights(path)):
            text = f"checkpoint {str(path)!r} is {what}: download or copy it again"
            raise ModelError(text, "model.checkpoint", str(path)) from error
        turned = (
            f'python -c "import torch; from safetensors.torch import save_file; c = torch.load({str(path)!r}, '
            "map_location='cpu', weights_only=False); c = c.get('state_dict', c.get('model', c)); "
            "save_file({k: v.contiguous().clone() for k, v in c.items()}, 'weights.safetensors')\""
        )
        text = (
            f"checkpoint {str(path)!r} cannot be read as weights ({reason}); give a safetensors file, or a .pth that "
            f"torch.load(weights_only=True) accepts. A file that you trust is turned into one by: {turned}"
        )
        raise ModelError(text, "model.checkpoint", str(path), action=turned) from error


def _no_weights(path: Path) -> str:
    """What a file is that a transfer left in place of weights; '' where it may be weights."""
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    if not head:
        return "empty"
    return "a web page (a login, a link that is none of a file)" if head.startswith((b"<!doctype", b"<html")) else ""


def _harmless() -> AbstractContextManager[Any]:
    """What training scripts leave beside the weights and no attack can use: options, numbers of NumPy."""
    import numpy as np
    import torch

    scalar: Any = np.float64(0).__reduce__()[0]
    # The same function, by the name that NumPy 1 wrote into files.
    older = (scalar, "numpy.core.multiarray.scalar")
    kinds = [type(np.dtype(name)) for name in ("bool", "int32", "int64", "float16", "float32", "float64")]
    return torch.serialization.safe_globals([argparse.Namespace, np.dtype, scalar, older, *kinds])


def _has_tensors(value: Any) -> bool:
    import torch

    return isinstance(value, Mapping) and any(isinstance(item, torch.Tensor) for item in value.values())


def _holders(content: Mapping[Any, Any], above: str = "") -> Iterator[str]:
    """Dotted keys of what holds tensors in some depth."""
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping):
            if _has_tensors(value):
                yield above + name
            elif above.count(".") < _DEPTH:
                yield from _holders(value, f"{above}{name}.")


def _under(content: Mapping[Any, Any], key: str, path: Path, holders: list[str]) -> Mapping[str, Any]:
    """What lies under a key, `a.b` for one in another, or the names that begin with it. Raises ModelError."""
    node: Any = content
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if _has_tensors(node):
        return dict(node)
    for names in (content, *(content[name] for name in _USUAL if _has_tensors(content.get(name)))):
        below = {name[len(key) + 1 :]: value for name, value in names.items() if str(name).startswith(f"{key}.")}
        if _has_tensors(below):
            return below
    name = "model.checkpoint_key"
    wrong = unknown(name, key, holders or map(str, content), key=name)
    raise ModelError(wrong.reworded(f"checkpoint {str(path)!r}: {wrong}"))


def _without_prefix(
    own: Mapping[str, torch.Tensor], state: dict[str, torch.Tensor], path: Path
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights without what their names have before the network's own, `model.` or `backbone.`, where most do."""
    counts: Counter[str] = Counter()
    for name in state:
        parts = name.split(".")
        counts.update(".".join(parts[:i]) for i in range(1, len(parts)) if ".".join(parts[i:]) in own)
    most = max(counts.values(), default=0)
    if most <= len(own) / 2 or most <= len(own.keys() & state.keys()):
        return state, []
    best = sorted(prefix for prefix, count in counts.items() if count == most)
    if len(best) > 1:
        several = f"several networks, under {', '.join(best)}"
        text = f"checkpoint {str(path)!r} holds {several}; set model.checkpoint_key to one"
        raise ModelError(text, "model.checkpoint_key", valid=best)
    bare = {name.removeprefix(f"{best[0]}."): state[name] for name in state if name.startswith(f"{best[0]}.")}
    beside = {name: state[name] for name in state if name in own and name not in bare}
    left = [name for name in state if not name.startswith(f"{best[0]}.") and name not in beside]
    notes = [f"the prefix {best[0]!r} of its names is taken off"]
    if left:
        notes.append(f"{len(left)} entries of other names are left out: {shortened(left, _SHOWN)}")
    return bare | beside, notes


def _without_head(
    own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The weights without those of a head, for a network that has none."""
    left = [name for name in state if name not in own and name.partition(".")[0] in ("head", "head_dist")]
    notes = [f"the head is left out, the network has none: {shortened(left, _SHOWN)}"] if left else []
    return {name: value for name, value in state.items() if name not in left}, notes


def _filter(network: nn.Module) -> Any:
    """timm's `checkpoint_filter_fn` for this class or one that it derives from, else None."""
    for kind in type(network).__mro__:
        function = getattr(sys.modules[kind.__module__], "checkpoint_filter_fn", None)
        if function is not None:
            return function
    return None


def _resampled(own: Mapping[str, torch.Tensor], before: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Tensors that a filter gave another number of elements: position embeddings, patch kernels, bias tables."""
    import math

    changed = [
        f"{name} {before[name]} -> {tuple(own[name].shape)}"
        for name in own
        if name in before and math.prod(before[name]) != own[name].numel()
    ]
    text = f"{len(changed)} tensors are resampled to the network's size: {shortened(changed, _SHOWN)}"
    return [text] if changed else []


def _misfits(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    """What differs between a network and a checkpoint, one entry per kind of difference."""
    missing = [name for name in own if name not in state]
    strange = [name for name in state if name not in own]
    reshaped = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    kinds = (("missing", missing), ("unexpected", strange), ("other shape", reshaped))
    return [f"{len(names)} {what}: {shortened(names, _SHOWN)}" for what, names in kinds if names]


def _not_fitting(path: Path, network: nn.Module, wrong: list[str]) -> Problem:
    text = f"checkpoint {str(path)!r} does not fit {type(network).__name__}: {'; '.join(wrong)}"
    return Problem(f"{text}; check model.name, model.kwargs and data.num_classes", "model.checkpoint", wrong)


def renamed_by(rules: Iterable[tuple[str, str]], name: str) -> str:
    """A weight's name under the first rule (pattern, replacement) that fits its start; unchanged where none does."""
    for pattern, ours in rules:
        renamed, count = re.subn(f"^{pattern}", ours, name)
        if count:
            return renamed
    return name

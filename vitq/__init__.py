"""vitq: sweeps of post-training quantization methods over vision transformers.

The words, before any code:

- **site**: one tensor that gets quantized: a weight (`blocks.3.attn.qkv.weight`), the input of a layer
  (`blocks.3.attn.qkv.input`) or an operand of a matmul (`blocks.3.attn.scores.query`).
- **kind**: what a site is in the transformer, from structure and never from its name: `weight`, `post_norm`, `query`,
  `key`, `probs` (after softmax), `value`, `post_gelu`, `attn_out`, `patch`, `head`, `dense`, `other`.
- **quantizer**: the map float → code → float of one site: uniform, log2, log√2 …
- **step**: one stage of a method: calibrate, equalize, reparameterize, reconstruct, allocate …
- **method**: a recipe: which quantizer each kind gets, and steps in order. A YAML file; an ablation is an override.
- **run**: one resolved config, executed once.
- **signature**: the identity of a run, 16 hex digits of sha256 over its resolved config.
- **sweep**: a list of runs with a name. A run belongs to every sweep that contains it.
- **allocation**: what a scheduler gives (a SLURM job, a local slot); it may execute many runs. Of bits: one width for
  each site within a budget, what the step `allocate` chooses.

Two ways in. A model of your own, without config files and folders:

    q = vitq.quantize(model, "repq_vit", bits="w4a4", images=images)

and runs, the same as on the command line, each computed once:

    run = vitq.run("model=deit_tiny", "method=repq_vit", "bits=w4a4")

`docs/api.md` describes every name, `docs/extending.md` how a package of your own adds methods, models and probes.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vitq.errors import VitqError

if TYPE_CHECKING:
    from vitq.api.network import evaluate, load, quantize
    from vitq.api.runs import Run, RunStore, Sweep, list_methods, list_models, run, store, sweep

__version__ = "0.2.0.dev0"

# Imported on first use: `import vitq` needs neither torch nor Hydra.
_HOMES = {
    "vitq.api.network": ("evaluate", "load", "quantize"),
    "vitq.api.runs": ("Run", "Sweep", "list_methods", "list_models", "run", "sweep"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Run",
    "Sweep",
    "VitqError",
    "evaluate",
    "list_methods",
    "list_models",
    "load",
    "quantize",
    "run",
    "store",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name == "store":
        return importlib.import_module("vitq.store")
    if name not in _HOME:
        raise AttributeError(f"module 'vitq' has no attribute {name!r}", name=name)
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Store(ModuleType):
    """The package `vitq.store`, which is a function of the public API as well: `vitq.store("runs").find("3f09")`."""

    def __call__(self, runs_dir: str = "runs") -> RunStore:
        from vitq.api.runs import store

        return store(runs_dir)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Python binds a package under its parent when it is first imported, whoever imports it.
        if name == "store" and isinstance(value, ModuleType):
            value.__class__ = _Store
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

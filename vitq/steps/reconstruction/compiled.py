"""Segments through `torch.compile`: quantizers fuse with their neighbours, one compilation serves all equal blocks."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vitq.errors import first_line
from vitq.models.structure import Segment

LOG = logging.getLogger("vitq.steps")

# Compiling takes 5 to 30 s once for each structure; it pays from about this many input elements of a segment on, over
# all iterations (a DeiT-tiny block at batch 64: 2.4 million each, where 0.1 s of 0.3 s are saved).
WORTH = 100_000_000

# Graphs of one run: structures × shapes of batches × stages, about 80 for Swin with three stages. Beyond the limit
# dynamo goes on without compiling, and says so in its own log alone.
_GRAPHS = 256

# The switch of torch by which the backward pass is compiled with the forward one, and not at the first backward, where
# nothing could take the plain forward instead. Versions without it fail there.
_BACKWARD = "force_non_lazy_backward_lowering"

_failed: list[str] = []
_run_of: weakref.ref[object] | None = None


def _run(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return forward(x)


@cache
def _compiled() -> Any:
    """One code object for all segments, so that blocks of one structure share their compiled code.

    Made on demand: the compiler takes more than a second to import, which plans and most runs can do without.
    """
    return torch.compile(_run, dynamic=False, options={"pattern_matcher": False})


def begin(run: object) -> None:
    """Forget what earlier runs of this process compiled, and what they could not compile.

    Without it graphs of earlier runs would count against the limit of this one, whose result would then depend on what
    the process did before; and one structure that cannot be compiled would cost all later runs their speed. What was
    compiled once is read back from inductor's cache on disk.
    """
    global _run_of
    if _run_of is not None and _run_of() is run:
        return
    if _run_of is not None:
        torch._dynamo.reset()
        _failed.clear()
    _run_of = weakref.ref(run)


def pays(mode: str, elements: int, iterations: int) -> bool:
    """Whether to compile: `on`, `off`, or `auto` by the work, which is a property of the config alone."""
    return mode == "on" or (mode == "auto" and elements * iterations >= WORTH)


def forward_of(segment: Segment, compile_it: bool) -> Callable[[Tensor], Tensor]:
    """The segment's forward, compiled on its first call where asked for.

    Where this machine cannot compile (no C++ compiler, an unsupported platform), a warning on the logger `vitq.steps`
    says so once, and the plain forward is used: same result up to the rounding of fused float32 operations.
    """
    if not compile_it or _failed:
        return segment.forward
    run = _compiled()
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
    if hasattr(torch._functorch.config, _BACKWARD):
        setattr(torch._functorch.config, _BACKWARD, True)

    def call(x: Tensor) -> Tensor:
        out: Tensor
        if _failed:
            out = segment.forward(x)
            return out
        try:
            out = run(segment.forward, x)
        except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
            reason = first_line(getattr(error, "inner_exception", error))  # dynamo wraps what a backend raised
            _failed.append(reason)
            LOG.warning(
                "torch.compile does not work here (%s); reconstruction goes on without it and takes up to twice as "
                "long. A C++ compiler is needed; `compile: off` in the step silences this",
                reason,
            )
            out = segment.forward(x)
        return out

    return call

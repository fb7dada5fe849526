"""Compiled segments: a run does not depend on what its process compiled, or could not compile, before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from tests.steps.reconstructions import CALIBRATE, UNIFORM, WAYS, Make, output, reconstruct
from tests.tiny import run, tiny
from vitq.models.structure import Segment
from vitq.steps.reconstruction import compiled


class Run:
    """What stands for a run's workspace."""


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Graphs that were compiled, by a backend that compiles nothing; dynamo keeps two for a code object."""
    seen: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        seen.append(graph)
        return graph.forward

    torch._dynamo.reset()
    whole = torch.compile(compiled._run, dynamic=False, backend=backend)
    monkeypatch.setattr(compiled, "_compiled", lambda: whole)
    monkeypatch.setattr(compiled, "_GRAPHS", 2)
    monkeypatch.setattr(compiled, "_failed", [])
    monkeypatch.setattr(compiled, "_run_of", None)
    with torch._dynamo.config.patch(recompile_limit=2):
        yield seen
    torch._dynamo.reset()


def segment(factor: float) -> Segment:
    return Segment("segment", lambda x: x * factor + x, ())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What vitq says; torch traces its own work."""
    return [record.getMessage() for record in caplog.records if record.name == compiled.LOG.name]


def test_graphs_of_earlier_runs_do_not_count(graphs: list[Any]) -> None:
    for number in range(4):
        run = Run()
        compiled.begin(run)
        for width in (2, 3):
            x = torch.ones(width)
            assert torch.equal(compiled.forward_of(segment(2.0), True)(x), 3 * x)
        compiled.begin(run)
        assert len(graphs) == 2 * (number + 1), "one graph for each shape, in every run"


def test_a_run_that_could_not_compile_leaves_the_next_one_alone(
    graphs: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    works = compiled._compiled

    def broken(_forward: Callable[[Tensor], Tensor], _x: Tensor) -> Tensor:
        raise torch._dynamo.exc.TorchDynamoException("no compiler")

    first, second = Run(), Run()
    compiled.begin(first)
    monkeypatch.setattr(compiled, "_compiled", lambda: broken)
    x = torch.ones(5)
    assert torch.equal(compiled.forward_of(segment(3.0), True)(x), 4 * x)
    monkeypatch.setattr(compiled, "_compiled", works)
    assert torch.equal(compiled.forward_of(segment(3.0), True)(x), 4 * x)
    assert not graphs, "the same run goes on without"
    (warning,) = warnings(caplog)
    assert warning.startswith("torch.compile does not work here (no compiler); reconstruction goes on without it")
    compiled.begin(second)
    assert torch.equal(compiled.forward_of(segment(3.0), True)(x), 4 * x)
    assert len(graphs) == 1


@pytest.mark.skipif(not hasattr(torch._functorch.config, compiled._BACKWARD), reason="this torch compiles it later")
def test_a_backward_pass_that_cannot_be_compiled_falls_back_too(
    graphs: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no kernel for it")

    backend = aot_autograd(fw_compiler=lambda graph, _: make_boxed_func(graph.forward), bw_compiler=broken)
    whole = torch.compile(compiled._run, dynamic=False, backend=backend)
    monkeypatch.setattr(compiled, "_compiled", lambda: whole)
    leaf = torch.ones(5, requires_grad=True)
    (3 * compiled.forward_of(segment(2.0), True)(leaf * 1).sum()).backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.full((5,), 9.0))
    (warning,) = warnings(caplog)
    assert "(no kernel for it)" in warning


@pytest.mark.parametrize(
    ("family", "way"), [("vit", "weights"), ("swin", "weights"), ("vit", "rounding and activation scales")]
)
def test_compiled_and_plain_reconstruction_learn_the_same(
    graphs: list[Any], monkeypatch: pytest.MonkeyPatch, workspace: Make, family: str, way: str
) -> None:
    """Through dynamo and the traced backward pass; what inductor makes of both is torch's own."""
    whole = torch.compile(compiled._run, dynamic=False, backend="aot_eager")
    used = []

    def watched(forward: Callable[[Tensor], Tensor], x: Tensor) -> Any:
        used.append(forward)
        return whole(forward, x)

    monkeypatch.setattr(compiled, "_compiled", lambda: watched)
    monkeypatch.setattr(compiled, "_GRAPHS", 256)
    found = []
    for mode in ("off", "on"):
        work = workspace(tiny(family), UNIFORM, images=8, weight=3, activation=4)
        run(work, CALIBRATE, reconstruct(**{**WAYS[way], "iterations": 3, "compile": mode}))
        found.append((torch.cat([curve for (curve,) in work.curves.values()]), output(work)))
        assert bool(used) == (mode == "on")
    assert not compiled._failed
    for plain, fast in zip(*found, strict=True):
        assert torch.allclose(plain, fast, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))

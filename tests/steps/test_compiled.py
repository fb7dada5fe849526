"""Compiled segments: a run does not depend on what its process compiled, or could not compile, before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from vitq.models.anatomy import Segment
from vitq.steps import compiled


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
    monkeypatch.setattr(compiled, "_compiled", torch.compile(compiled._run, dynamic=False, backend=backend))
    monkeypatch.setattr(compiled, "_GRAPHS", 2)
    monkeypatch.setattr(compiled, "_failed", [])
    monkeypatch.setattr(compiled, "_run_of", None)
    with torch._dynamo.config.patch(recompile_limit=2):
        yield seen
    torch._dynamo.reset()


def segment(factor: float) -> Segment:
    return Segment("segment", lambda x: x * factor + x, ())


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
    graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    works = compiled._compiled

    def broken(_forward: Callable[[Tensor], Tensor], _x: Tensor) -> Tensor:
        raise torch._dynamo.exc.TorchDynamoException("no compiler")

    first, second = Run(), Run()
    compiled.begin(first)
    monkeypatch.setattr(compiled, "_compiled", broken)
    x = torch.ones(5)
    assert torch.equal(compiled.forward_of(segment(3.0), True)(x), 4 * x)
    monkeypatch.setattr(compiled, "_compiled", works)
    assert torch.equal(compiled.forward_of(segment(3.0), True)(x), 4 * x)
    assert not graphs, "the same run goes on without"
    compiled.begin(second)
    assert torch.equal(compiled.forward_of(segment(3.0), True)(x), 4 * x)
    assert len(graphs) == 1

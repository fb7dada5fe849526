"""The loss that a site's bits cause: exact on the path that is taken, and for the site alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.mixed import loss, prepared
from tests.tiny import tiny
from vitq.steps import Workspace
from vitq.steps.allocation.sensitivity import table

Make = Callable[..., Workspace]


@pytest.mark.parametrize("family", ["vit", "swin"])
def test_looks_and_takes_are_exact(calibrated: Make, family: str) -> None:
    """Evaluating from a site's segment on gives what the whole model gives, for each change and after each taking."""
    work = calibrated(family)
    trial, _, names = prepared(work)
    reference = tiny(family)
    assert trial.loss == pytest.approx(loss(work, reference), rel=1e-4, abs=1e-9)
    # Half an octave stays half an octave at 3 bits: attention probabilities within four octaves do not change.
    chosen = [name for name in names[:: len(names) // 9] if not name.endswith("probs")]
    assert len(chosen) >= 6
    for name in chosen:
        looked = trial.look(name, 3)
        before = trial.loss
        assert work.model.sites[name].quantizer.bits == 8  # type: ignore[union-attr]
        assert trial.take(name, 3) == looked != before
        assert looked == pytest.approx(loss(work, reference), rel=1e-4)
    untaken = trial.look(names[1], 4)
    assert untaken != trial.loss
    assert trial.take(names[-1], 4) == pytest.approx(loss(work, reference), rel=1e-4), "taken without a look"


def test_sensitivities_are_those_of_one_site_alone(calibrated: Make) -> None:
    work = calibrated("vit", kinds={"value": 6})
    trial, _, names = prepared(work)
    alone = table(trial, names, [3, 8], work)
    reference, values = tiny("vit"), [s for s in work.model.sites.values() if s.kind == "value"]
    assert all(site.on for site in values), "sites that are not allocated are on again"
    for name in names[::9]:
        work.model.switch(work.model.sites.values(), on=False)
        trial._set(name, 3)
        assert alone[name][3] == pytest.approx(loss(work, reference), rel=1e-3, abs=1e-10)

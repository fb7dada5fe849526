"""What is looked at once a run is done: loss landscapes and the like. A probe never changes the run's result.

A probe of one's own: `@register_probe("name") class MyProbe(Probe)`.
"""

from vitq.probes.probe import PROBES, Probe, register_probe

__all__ = ["PROBES", "Probe", "register_probe"]

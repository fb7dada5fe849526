"""What is looked at once a run is done: loss landscapes and the like. A probe never changes the run's result."""

from vitq.probes.perform import Outcome, perform
from vitq.probes.probe import PROBES, Probe, load, parse_probe

__all__ = ["PROBES", "Outcome", "Probe", "load", "parse_probe", "perform"]

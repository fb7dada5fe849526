"""The steps that recipes are made of. Importing the package registers them all."""

from vitq.steps import allocate, bias_correction, calibrate, equalize, half, reconstruct, reparameterize
from vitq.steps.step import STEPS, Step, Workspace

__all__ = [
    "STEPS",
    "Step",
    "Workspace",
    "allocate",
    "bias_correction",
    "calibrate",
    "equalize",
    "half",
    "reconstruct",
    "reparameterize",
]

"""The steps that recipes are made of. Importing the package registers them all."""

from vitq.steps import calibrate, reconstruct, reparameterize
from vitq.steps.step import STEPS, Step, Workspace

__all__ = ["STEPS", "Step", "Workspace", "calibrate", "reconstruct", "reparameterize"]

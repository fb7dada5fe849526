"""The steps that recipes are made of."""

from vitq.steps.step import STEPS, Step, Workspace

__all__ = ["STEPS", "Step", "Workspace"]

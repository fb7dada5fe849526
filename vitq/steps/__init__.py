"""The steps that recipes are made of. A step of one's own: `@register_step("name") class MyStep(Step)`."""

from vitq.steps.step import STEPS, Network, Step, Workspace, register_step
from vitq.steps.stream import Stream

__all__ = ["STEPS", "Network", "Step", "Stream", "Workspace", "register_step"]

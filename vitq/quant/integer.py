"""What an integer runtime needs of a quantizer: its round trip as a sum of evenly spaced codes."""

from __future__ import annotations

from dataclasses import dataclass

# Codes of 8 bits reach from −MIDDLE to MIDDLE − 1, or from 0 to 2·MIDDLE − 1.
MIDDLE = 128


class NotIntegerError(Exception):
    """8-bit integers cannot hold it exactly; the message says why."""


@dataclass(frozen=True)
class IntegerPart:
    """Evenly spaced codes of one scale: x ↦ scale·clamp(round((x − start)/scale), low, high).

    above, up_to: the part is 0 for x that is not above, or not at most, this value; None for all x.
    """

    scale: float
    low: int
    high: int
    start: float = 0.0
    above: float | None = None
    up_to: float | None = None

    @property
    def zero(self) -> int:
        """Zero point of codes that begin at 0."""
        return -self.low

    @property
    def centred(self) -> bool:
        """Whether int8 holds all codes with the zero point at 0."""
        return self.low >= -MIDDLE and self.high < MIDDLE

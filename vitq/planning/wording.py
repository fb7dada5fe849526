"""Words for numbers."""

from __future__ import annotations


def count(number: int, noun: str, plural: str = "") -> str:
    """`1 run`, `2 runs`; `count(2, 'process', 'processes')` where an s is not enough."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"

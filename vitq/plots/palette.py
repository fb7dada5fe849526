"""Colours of Okabe and Ito; shapes differ too."""

from __future__ import annotations

# Okabe–Ito without black and yellow, which vanish on a dark and on a white page.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
BLUE, ORANGE = PALETTE[:2]
GREY = "#808080"
# Of text and of full precision, which the page sets for light and dark.
INK = GREY
# Of plotly and of matplotlib.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "pentagon")
MARKERS = "osD^v<>Pp*X"


# Opacity of a band around a line.
_PALE = 0.18


def band(colour: str) -> str:
    """A palette colour so pale that lines and other bands show through."""
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},{_PALE})"


def style(index: int) -> tuple[str, str]:
    """Colour and plotly's symbol of the index-th series: no two of the first 48 are alike."""
    return PALETTE[index % len(PALETTE)], SYMBOLS[(index + index // len(PALETTE)) % len(SYMBOLS)]

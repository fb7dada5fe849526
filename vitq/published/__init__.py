"""Published figures of vision-transformer PTQ: facts with their sources, one YAML file for each source."""

from vitq.published.cell import MODELS, Cell
from vitq.published.figures import Figures
from vitq.published.spread import Difference, Spread

__all__ = ["MODELS", "Cell", "Difference", "Figures", "Spread"]

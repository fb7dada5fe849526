"""From a config and a model to numbers: the recipe applied, evaluated, checked. Knows no run folder."""

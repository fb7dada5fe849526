"""Images: what a plan knows about them (no torch), and the decoded sets a run reads."""

from vitq.data.check import problems, warnings
from vitq.data.facts import DataFacts, describe
from vitq.data.images import Images, ImageSet
from vitq.data.ragged import RaggedImages
from vitq.data.sets import calibrating, calibration_scenes, calibration_set, eval_set, neighbour_set, scored_scenes

__all__ = [
    "DataFacts",
    "ImageSet",
    "Images",
    "RaggedImages",
    "calibrating",
    "calibration_scenes",
    "calibration_set",
    "describe",
    "eval_set",
    "neighbour_set",
    "problems",
    "scored_scenes",
    "warnings",
]

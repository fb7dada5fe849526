"""The config of one run: frozen dataclasses, validated once, free of torch and Hydra."""

from vitq.config.bits import BitsConfig
from vitq.config.calib import CalibConfig
from vitq.config.data import DataConfig
from vitq.config.method import FULL_KINDS, KINDS, MethodConfig, QuantizerConfig
from vitq.config.model import ModelConfig, TrainConfig
from vitq.config.run import LauncherConfig, ProbeConfig, RunConfig, TrackerConfig
from vitq.config.signature import SCHEMA_VERSION, canonical, orders, signature

__all__ = [
    "FULL_KINDS",
    "KINDS",
    "SCHEMA_VERSION",
    "BitsConfig",
    "CalibConfig",
    "DataConfig",
    "LauncherConfig",
    "MethodConfig",
    "ModelConfig",
    "ProbeConfig",
    "QuantizerConfig",
    "RunConfig",
    "TrackerConfig",
    "TrainConfig",
    "canonical",
    "orders",
    "signature",
]

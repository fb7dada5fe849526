"""Quantizers, range search and quantized modules. Imports no Hydra, wandb or submitit.

A quantizer of one's own: `@register_quantizer("name") class MyQuantizer(Quantizer)`.
"""

from vitq.quant.distribution import Distribution
from vitq.quant.layout import Axes, Layout
from vitq.quant.quantizer import QUANTIZERS, Quantizer, register_quantizer
from vitq.quant.uniform import UniformQuantizer

__all__ = ["QUANTIZERS", "Axes", "Distribution", "Layout", "Quantizer", "UniformQuantizer", "register_quantizer"]

"""vitq: sweeps of post-training quantization methods over vision transformers."""

__version__ = "0.1.0"

"""vitq: sweeps of post-training quantization methods over vision transformers."""

__version__ = "0.2.0.dev0"

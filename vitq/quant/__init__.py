"""Quantizers, range search and quantized modules. Imports no Hydra, wandb or submitit."""

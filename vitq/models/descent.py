"""Gradient descent as vitq trains its own small networks: AdamW, a rising and falling rate, clipped gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vitq.config import ModelConfig
from vitq.config.model import TrainConfig
from vitq.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

WARMUP = 0.1  # share of all steps in which the learning rate rises linearly
CLIP = 1.0  # largest norm of the gradient


def recipe_of(model: ModelConfig) -> TrainConfig:
    """The config's training recipe. Raises ModelError when it has none."""
    if model.train is None:
        text = f"{model.name!r} has no training recipe; set model.train, or model.checkpoint to a file"
        raise ModelError(text, "model.train")
    return model.train


class Descent:
    """Steps down the loss of a network; `steps` in all. Vectors (norms, biases) have no weight decay."""

    def __init__(self, network: nn.Module, rule: TrainConfig, steps: int):
        import torch

        self._network, self._rule, self._steps, self._done = network, rule, steps, 0
        matrices = [p for p in network.parameters() if p.ndim > 1]
        vectors = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": rule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=rule.lr, fused=True)

    def step(self, loss: Tensor) -> None:
        """Update the network by the gradient of its loss on a batch."""
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = self._rule.lr * _share(self._done / self._steps)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), CLIP)
        self._optimizer.step()
        self._done += 1

    def result(self) -> dict[str, Tensor]:
        """The state dict of the network, copied."""
        return {name: tensor.detach().clone() for name, tensor in self._network.state_dict().items()}


def _share(done: float) -> float:
    """Factor of the learning rate after a share of all steps: linear warm-up, then half a cosine to 0."""
    return done / WARMUP if done < WARMUP else 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))

"""The quantized twin of a family's attention: its own layers, and both matmuls and the softmax as parts with sites."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from torch import Tensor, nn


class Parts(Protocol):
    """Makes what a twin quantizes with (vitq.quant does)."""

    def matmul(self, name: str, left: str, right: str) -> nn.Module:
        """a @ b, or a @ bᵀ with transpose=True, of (B, heads, N, M) each; both operands are sites of these kinds."""

    def softmax(self, name: str) -> nn.Module:
        """Softmax over the last dimension of (B, heads, N, N) scores, with a mask (windows, N, N) or None behind it."""


class AttentionTwin(nn.Module):
    """Takes the place of an attention layer over (B, N, C) and shares its submodules: qkv → scores → context → proj.

    A family subclasses it in its own file and says what else its attention does: `shared`, and the methods that do
    nothing here. The integer form of a model is made from these methods too (vitq/deploy/onnx/attention.py).
    """

    # Names of the layer's submodules, parameters and buffers beside `qkv`, `proj`, `q_norm` and `k_norm` that are used.
    shared: ClassVar[tuple[str, ...]] = ()
    # Whether `qkv` makes query, key and value of the layer's input, and nothing else, so that the integer form may
    # round them where they are made. A twin without it names all its layers in `shared`, and has its own forward.
    joint: ClassVar[bool] = True
    # Kind of what multiplies the values: `probs`, unless something stands between the softmax and them.
    weights: ClassVar[str] = "probs"
    # Whether tokens look at tokens: a row of probabilities is over tokens, and not over channels.
    over_tokens: ClassVar[bool] = True
    scale: float
    num_heads: int
    qkv: nn.Module
    proj: nn.Module
    # Norms of query and key over the channels of a head, an Identity where the layer has none.
    q_norm: nn.Module
    k_norm: nn.Module

    def __init__(self, attention: nn.Module, name: str, parts: Parts):
        super().__init__()
        self.num_heads = attention.num_heads  # type: ignore[assignment]
        self.scale = getattr(attention, "scale", 1.0)
        for part in (*(("qkv", "proj") if self.joint else ()), *self.shared):
            value = getattr(attention, part)
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(part, value, persistent=False)
            else:
                setattr(self, part, value)
        for part in ("q_norm", "k_norm"):
            setattr(self, part, getattr(attention, part, None) or nn.Identity())
        self.scores = parts.matmul(f"{name}.scores", "query", "key")
        self.context = parts.matmul(f"{name}.context", self.weights, "value")
        self.softmax = parts.softmax(name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        heads = self.attend(query, key, value, self.bias(), *args, **kwargs)
        out: Tensor = self.proj(self.before_proj(heads.transpose(1, 2).reshape(batch, tokens, -1), x))
        return out

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """(B, heads, N, d) of query, key and value of that shape, and bias (heads, N, N).

        args, kwargs: what the model calls its attention with beside x.
        """
        query, key = self.before_scores(query, key, *args, **kwargs)
        scores = self.scores(query, key, transpose=True) * self.scaling()
        for added in (bias, self.shared_bias(*args, **kwargs)):
            scores = scores if added is None else scores + added
        out: Tensor = self.context(self.softmax(scores, self.mask(*args, **kwargs)), value)
        return out

    def mask(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """(windows, N, N) to add to the scores, or None, from what the model calls its attention with beside x.

        This one is of models that hand nothing to their attention; a family whose model does has its own.
        """
        if args or kwargs:
            raise TypeError(f"{type(self).__name__}.mask: this model was known to give its attention nothing beside x")
        return None

    def bias(self) -> Tensor | None:
        """(heads, N, N) to add to all scaled scores; None where the family has none."""
        return None

    def shared_bias(self, *args: Any, **kwargs: Any) -> Tensor | None:
        """(heads, N, N) that the model hands to all its attentions, added like `bias`; None where it has none."""
        return None

    def scaling(self) -> float | Tensor:
        """What the scores are multiplied by: a number, or (heads, 1, 1), above 0."""
        return self.scale

    def before_scores(self, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """What is done to query and key, (B, heads, N, d) each, before they become operands."""
        return self.q_norm(query), self.k_norm(key)

    def before_proj(self, out: Tensor, x: Tensor) -> Tensor:
        """What is done to the joined heads (B, N, C) before `proj`. x: the layer's input."""
        return out

    @property
    def bare_scores(self) -> bool:
        """Whether `before_scores` does nothing."""
        return isinstance(self.q_norm, nn.Identity) and isinstance(self.k_norm, nn.Identity)

    @property
    def bare_proj(self) -> bool:
        """Whether `before_proj` does nothing."""
        return True

    def learnable(self) -> list[nn.Parameter]:
        """Tensors outside the layers that reconstruction learns together with their weights."""
        return []

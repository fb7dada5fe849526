"""What families with one residual stream share: it runs from the patch embedding to the head, and blocks add to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from timm.layers import AttentionPoolLatent, GluMlp, Mlp, SwiGLU
from timm.models.vitamin import GeGluMlp
from torch import Tensor, nn

from vitq.models.latent_pooling import LatentPooling
from vitq.models.rotatable import Heads, Reader, ResidualStream, Rotatable, Writer, obstacle
from vitq.models.structure import Segment, Structure, layers_below, unsupported


class SharedInput(nn.Module):
    """A block (B, N, C) ↦ (B, N, C) with what the model hands to its blocks beside x: keyword arguments made from x."""

    def __init__(self, block: nn.Module, shared: Callable[[Tensor], Mapping[str, Tensor | int | None]]):
        super().__init__()
        self.block, self.shared = block, shared

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x, **self.shared(x))
        return out


class Isotropic:
    """Fills in `structure` while a family's file walks through its model, part by part, in the order they run.

    A branch of a block is x + s·f(norm(x)), or x + norm(f(x)) where the norm stands `behind`: then f reads the stream
    itself, nothing can be folded, and the norm's weights lie in the stream, so that it cannot be rotated.
    """

    def __init__(self, family: str, model: nn.Module):
        """Raises ModelError for a patch embedding without convolutions."""
        self.model = model
        embed = model.get_submodule("patch_embed")
        layers = layers_below(model, "patch_embed")  # the first one reads the image
        if not layers:
            raise unsupported(model, "patch embedding", type(embed).__name__, "one convolution, or several")
        inputs = dict.fromkeys(layers, "other") | {layers[0]: "patch"}
        self.structure = Structure(family, model, inputs=inputs, stem=(layers[0],))
        self._writers = [Writer(layers[-1])]
        self._readers: list[Reader] = []
        self._heads: list[Heads] = []
        self._fixed = ""
        if len(layers) > 1 and layers[-1] != "patch_embed.proj":
            self.fix("patch_embed ends inside its convolutional network")
        for name in ("norm_pre", "patch_embed.norm"):
            if self._module(name) is not None:
                self.fix(f"{name} writes its channel-wise weights to the stream")

    def fix(self, reason: str) -> None:
        """The stream cannot be rotated; the first reason is kept. "": no reason."""
        self._fixed = self._fixed or reason

    def segment(self, name: str, forward: Callable[[Tensor], Tensor], modules: Iterable[str]) -> None:
        """The next link of the chain."""
        self.structure.segments.append(Segment(name, forward, tuple(modules)))

    def attention(self, name: str, norm: str, scale: str, behind: bool = False, rotary: bool = False) -> None:
        """An attention with `qkv` and `proj`, perhaps norms of query, key and the joined heads, and a gate.

        scale: parameter that multiplies its output, where the model has it. rotary: query and key are turned by their
        positions.
        """
        self.structure.attentions.append(name)
        first = [f"{name}.qkv"] + [gate for gate in (f"{name}.gate",) if self._module(gate) is not None]
        self.read(norm, first, behind)
        self.structure.inputs[f"{name}.proj"] = "attn_out"
        gated = len(first) > 1
        if not gated:
            self.link(f"{name}.norm", [f"{name}.proj"])
        self.write(f"{name}.proj", scale, norm if behind else None)
        qk = f"{name}.q_norm stands between" if self._module(f"{name}.q_norm") is not None else ""
        qk = f"{name}: rotary embeddings stand between, and rotate pairs of channels themselves" if rotary else qk
        vo = f"{name}.norm stands between" if self._module(f"{name}.norm") is not None else ""
        vo = f"{name}.gate multiplies channels" if gated else vo
        self.heads(f"{name}.qkv", f"{name}.proj", self.model.get_submodule(name), qk, vo)

    def heads(self, qkv: str, proj: str, attention: nn.Module, fixed_qk: str = "", fixed_vo: str = "") -> None:
        """The heads of an attention."""
        count, columns = int(attention.num_heads), int(self.model.get_submodule(proj).in_features)  # type: ignore[arg-type]
        self._heads.append(Heads(qkv, proj, count, columns // count, fixed_qk, fixed_vo))

    def mlp(self, name: str, norm: str, scale: str, behind: bool = False) -> None:
        """An MLP, gated or not, with or without a norm inside."""
        module, inputs = self.model.get_submodule(name), self.structure.inputs
        layers = layers_below(self.model, name)
        inputs.update(dict.fromkeys(layers, "other"))
        if type(module) is GeGluMlp:
            self._normed_mlp(name, norm, scale)
            return
        first = [layer for layer in layers if layer.startswith(f"{name}.fc1")]
        if f"{name}.fc2" not in layers or not first:
            self.fix(f"{name} is a {type(module).__name__}, which has no fc1 or no fc2")
        self.read(norm, first, behind)
        if f"{name}.fc2" not in layers:
            return
        if type(module) is Mlp and isinstance(module.act, nn.GELU):
            inputs[f"{name}.fc2"] = "post_gelu"
        if isinstance(module, Mlp | GluMlp | SwiGLU):
            self.link(f"{name}.norm", [f"{name}.fc2"])
        self.write(f"{name}.fc2", scale, norm if behind else None)

    def _normed_mlp(self, name: str, norm: str, scale: str) -> None:
        """A gated MLP with a norm of its own in front (ViTamin)."""
        self.fix(f"{norm} writes its channel-wise weights to what {name}.norm reads")
        self.link(f"{name}.norm", [f"{name}.w0", f"{name}.w1"])
        self.write(f"{name}.w2", scale)

    def read(self, norm: str, layers: list[str], behind: bool = False) -> None:
        """`layers` read the stream: through `norm`, or as it is where that stands behind them."""
        if behind:
            self.structure.inputs.update(dict.fromkeys(layers, "other"))
            return
        self.link(norm, layers)
        self.fix(obstacle(norm, self.model.get_submodule(norm)))
        self._readers.append(Reader(norm, tuple(layers)))

    def write(self, layer: str, scale: str, norm: str | None = None, also: tuple[str, ...] = ()) -> None:
        """`layer` adds to the stream, `also` others: times `scale`, where the model has it, and through `norm`."""
        self._writers.append(Writer(layer, None if self._part(scale) is None else scale, also))
        if norm is not None:
            self.fix(f"{norm} stands behind {layer} and writes its channel-wise weights to the stream")

    def link(self, norm: str, layers: list[str]) -> None:
        """`layers` read the output of `norm`, where that norm exists."""
        if self._module(norm) is not None:
            self.structure.link(norm, *layers)

    def tail(self, tokens: Iterable[str]) -> Structure:
        """Everything behind the blocks: norm, pooling, fc_norm, head. tokens: parameters that are put into the stream.

        Raises ModelError for a pooling layer that the engine does not know.
        """
        model, structure = self.model, self.structure
        structure.head = tuple(name for name in ("head", "head_dist") if isinstance(self._module(name), nn.Linear))
        structure.inputs.update(dict.fromkeys(structure.head, "head"))
        if (pooling := self._module("attn_pool")) is not None:
            self._pooling(pooling)
            self.segment("attn_pool", lambda x: model.pool(model.norm(x)), ("norm", "attn_pool"))  # type: ignore[operator]
            self.segment("head", self._classify, ("fc_norm", *structure.head))
        else:
            forward = lambda x: model.forward_head(model.norm(x))  # type: ignore[operator]  # noqa: E731
            self.segment("head", forward, ("norm", "fc_norm", *structure.head))
            self._last_norm(structure.head)
        tensors = tuple(name for name in tokens if getattr(model, name, None) is not None)
        width = int(model.embed_dim)  # type: ignore[arg-type]
        stream = ResidualStream("blocks", width, tuple(self._writers), tensors, tuple(self._readers), self._fixed)
        structure.rotatable = Rotatable((stream,), tuple(self._heads))
        return structure

    def _classify(self, x: Tensor) -> Tensor:
        out: Tensor = self.model.head(self.model.fc_norm(x))  # type: ignore[operator]
        return out

    def _last_norm(self, readers: tuple[str, ...]) -> None:
        norms = [name for name in ("norm", "fc_norm") if self._module(name) is not None]
        pool = str(getattr(self.model, "global_pool", ""))
        if not readers:
            self.fix("the network has no head, so that its output is the stream itself")
        elif len(norms) > 1:
            self.fix("norm writes its channel-wise weights to what fc_norm reads")
        elif "max" in pool:
            self.fix(f"global_pool={pool} takes the largest value of each channel")
        for name in norms:
            self.fix(obstacle(name, self.model.get_submodule(name)))
        self._readers.append(Reader(norms[0] if norms else None, readers))

    def _pooling(self, pooling: nn.Module) -> None:
        if type(pooling) is not AttentionPoolLatent or not isinstance(pooling.q, nn.Linear) or pooling.mlp is None:
            valid = "token, avg, avgmax, max, map (timm's AttentionPoolLatent with its query layer and MLP)"
            raise unsupported(self.model, "pooling", type(pooling).__name__, valid)
        name, inputs = "attn_pool", self.structure.inputs
        self.structure.attentions.append(name)
        self.structure.twins[name] = LatentPooling
        inputs |= {f"{name}.q": "other", f"{name}.kv": "other", f"{name}.proj": "attn_out"}
        if pooling.pos_embed is not None:
            self.fix(f"{name} adds its position embedding to the normed stream")
        else:
            self.link("norm", [f"{name}.kv"])
        inputs |= dict.fromkeys(layers_below(self.model, f"{name}.mlp"), "other")
        inputs[f"{name}.mlp.fc2"] = "post_gelu" if isinstance(pooling.mlp.act, nn.GELU) else "other"
        self.link(f"{name}.norm", [f"{name}.mlp.fc1"])
        last = self._module("norm")
        self.fix("" if last is None else obstacle("norm", last))
        self._readers.append(Reader(None if last is None else "norm", (f"{name}.kv",)))

    def _module(self, name: str) -> nn.Module | None:
        """A module that the model may have or not; an Identity is none."""
        module = self._part(name)
        return module if isinstance(module, nn.Module) and not isinstance(module, nn.Identity) else None

    def _part(self, name: str) -> object:
        """A module or parameter, None where the model has none."""
        part: object = self.model
        for attribute in name.split("."):
            part = getattr(part, attribute, None)
        return part

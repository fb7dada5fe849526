"""Linear and convolution layers with sites for their weight and their input, and the matmul with two operand sites."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vitq.quant.layout import Axes
from vitq.quant.site import Site


class QuantLinear(nn.Linear):
    """`nn.Linear` whose weight and input pass their sites. Shares the parameters of the layer it replaces.

    balance: (in_features,) float32 powers of two that the input is multiplied by at run time, before it is quantized,
        where no norm stands in front into which they could be folded; None where there are none. One exponent each is
        stored. equalized: the strength that the step `equalize` chose for this layer's input, None without one.
    """

    balance: Tensor | None

    def __init__(self, layer: nn.Linear, name: str, input_kind: str, input_axes: Axes):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.weight_site = Site(f"{name}.weight", "weight", Axes(channel=0, weight=True), name)
        self.input_site = Site(f"{name}.input", input_kind, input_axes, name)
        self.register_buffer("balance", None)
        self.equalized: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.balance is not None:
            x = x * self.balance
        return F.linear(self.input_site(x), self.weight_site(self.weight), self.bias)


class QuantConv2d(nn.Conv2d):
    """`nn.Conv2d` (the patch embedding) whose weight and input image pass their sites."""

    def __init__(self, layer: nn.Conv2d, name: str, input_kind: str):
        nn.Module.__init__(self)
        # Sizes, stride, padding …: what nn.Conv2d keeps beside what every module has.
        self.__dict__.update({key: value for key, value in vars(layer).items() if key not in vars(self)})
        self.weight, self.bias = layer.weight, layer.bias
        self.weight_site = Site(f"{name}.weight", "weight", Axes(channel=0, weight=True), name)
        self.input_site = Site(f"{name}.input", input_kind, Axes(channel=1), name)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(self.input_site(x), self.weight_site(self.weight), self.bias)
        return out


class QuantMatmul(nn.Module):
    """a @ b where both operands, (B, heads, N, M) each, are sites."""

    def __init__(self, name: str, left: str, right: str):
        super().__init__()
        axes = Axes(channel=-1, head=1, token=True)
        self.left_site = Site(f"{name}.{left}", left, axes, name)
        self.right_site = Site(f"{name}.{right}", right, axes, name)

    def forward(self, a: Tensor, b: Tensor, transpose: bool = False) -> Tensor:
        # Contiguous before it is transposed: the product reads a transposed view, and nothing is copied across.
        a, b = self.left_site(a).contiguous(), self.right_site(b).contiguous()
        return a @ (b.transpose(-2, -1) if transpose else b)

"""Linear maps that multiply and say what that costs: the dense one of every model, and what may stand in its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from workbench.models.multiply import Multiply


@runtime_checkable
class LinearMap(Protocol):
    """What the steps of a model ask of a linear map [outputs, inputs], however its weights are kept.

    Low-rank, quantised or pruned weights take a projection's place as a dataclass with these members;
    :meth:`workbench.models.Model.variant` puts it there, and can name its tensors and move them.

    Attributes
    ----------
    weight : Tensor [outputs, inputs]
        The weights as plain numbers, made on the spot where they are kept otherwise; steps do not read it.
    bias : Tensor [outputs] or None
    """

    @property
    def weight(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs [..., outputs] of ``x`` [..., inputs]."""

    def flops(self, rows: int) -> int:
        """Operations of a product with so many rows, a multiply-add counted as two."""

    def bytes(self, rows: int) -> int:
        """Bytes of weights, as they are kept, that a product with so many rows reads."""


@dataclass
class Projection:
    """Dense weights, as they were loaded.

    Attributes
    ----------
    weight : Tensor [outputs, inputs]
    bias : Tensor [outputs] or None
    multiply : Multiply, optional
        Forms the product; by default as those of a model of this dtype on this device are formed.
    """

    weight: Tensor
    bias: Tensor | None = None
    multiply: Multiply | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.multiply is None:
            self.multiply = Multiply(self.weight.dtype, self.weight.device)

    def __call__(self, x: Tensor) -> Tensor:
        return self.multiply(x, self.weight, self.bias)

    def flops(self, rows: int) -> int:
        """``2 * rows * outputs * inputs``; the bias, one addition for each output, is left out."""
        return 2 * rows * self.weight.numel()

    def bytes(self, rows: int) -> int:
        """All weights, once, whatever the number of rows."""
        return self.weight.numel() * self.weight.element_size()


def some_outputs(linear: LinearMap, chosen: Tensor | slice) -> Projection:
    """The rows of a linear map that give the outputs ``chosen``, as one with dense weights."""
    bias = None if linear.bias is None else linear.bias[chosen]
    return Projection(linear.weight[chosen], bias, getattr(linear, "multiply", None))


def product_of_some(linear: LinearMap, x: Tensor, chosen: Tensor) -> Tensor:
    """The outputs ``chosen`` of a linear map [..., chosen]; dense weights of others are not read, nor any copied where
    products are the compiled kernel's."""
    multiply = getattr(linear, "multiply", None)
    if isinstance(multiply, Multiply):
        return multiply.some(x, linear.weight, linear.bias, chosen)
    return some_outputs(linear, chosen)(x)


def some_inputs(linear: LinearMap, chosen: Tensor) -> Projection:
    """The columns of a linear map that multiply the inputs ``chosen``, as one with dense weights."""
    return Projection(linear.weight.index_select(1, chosen), linear.bias, getattr(linear, "multiply", None))

"""One matrix product for every step of a model.

A decode step multiplies every weight with one row, verifying a draft with some, a prefill with many. On a CPU with a
C++ compiler all of them go through the project's own kernel, :mod:`workbench_kernels.few_rows`, whose sums have one
order whatever the number of rows; elsewhere through torch. Which of the two is a matter of the machine, never of a
timing: see :mod:`workbench_kernels.arithmetic`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench_kernels.arithmetic import compiled
from workbench_kernels.few_rows import FewRows


class Multiply:
    """``multiply(x, weight, bias)``: ``x @ weight.T + bias``.

    Parameters
    ----------
    dtype : torch.dtype, optional
        Of ``x`` and ``weight``; None leaves every product to torch.
    device : torch.device, optional
        Where they are; by default the CPU.

    Notes
    -----
    The compiled kernel has no derivative: what is to be differentiated goes through torch, as do products of other
    dtypes or with a weight that is not contiguous.
    """

    def __init__(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> None:
        on_cpu = device is None or device.type == "cpu"
        self._kernel = FewRows(dtype) if dtype is not None and on_cpu and compiled(dtype) else None

    @property
    def compiled(self) -> bool:
        """Whether products are the compiled kernel's."""
        return self._kernel is not None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        kernel = self._kernel_for(x, weight)
        if kernel is None:
            return F.linear(x, weight, bias)
        product = kernel(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)
        return product if bias is None else product + bias

    def some(self, x: Tensor, weight: Tensor, bias: Tensor | None, places: Tensor) -> Tensor:
        """The outputs ``places`` (int Tensor) of a product alone; the kernel reads their weights where they stand."""
        bias, kernel = None if bias is None else bias[places], self._kernel_for(x, weight)
        if kernel is None or places.dtype != torch.int64:
            return F.linear(x, weight[places], bias)
        product = kernel.some(x.reshape(-1, x.shape[-1]), weight, places).view(*x.shape[:-1], -1)
        return product if bias is None else product + bias

    def _kernel_for(self, x: Tensor, weight: Tensor) -> FewRows | None:
        kernel = self._kernel
        if kernel is None or not (weight.dtype == x.dtype == kernel.dtype and weight.is_contiguous()):
            return None
        return None if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad) else kernel

"""A matrix product with few rows, as fast as the weights can be read: one decode or verification step on the CPU.

A step of batch one multiplies every weight with one row; verifying a draft of seven with eight. Reading the weights
takes the time, so eight rows should cost hardly more than one. Libraries differ on that several-fold, because their
kernels are made for many rows. This one reads the weights where the model has them, needs no second copy in a layout of
its own, and forms the sum of an output in the same order whatever the number of rows: the products of a verification
are bit for bit those of decoding.
"""

import ctypes

import torch
from torch import Tensor

from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.native import function

__all__ = ["BackendUnavailable", "FewRows"]

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class FewRows:
    """The product for one dtype, made ready once; it checks little and gives bare tensors.

    Parameters
    ----------
    dtype : torch.dtype
        float32 or bfloat16.
    *flags : str
        For the compiler, after ``-march=native``.

    Raises
    ------
    BackendUnavailable
        If it cannot be compiled here, or there is none for the dtype.

    Notes
    -----
    Sums are formed in float32. Without instructions for bfloat16 the numbers are widened to float32 in registers. As
    many threads run as torch uses. It has no derivative.
    """

    def __init__(self, dtype: torch.dtype, *flags: str) -> None:
        if dtype not in _NAMES:
            raise BackendUnavailable(f"there is no few-rows kernel for {dtype}; float32 and bfloat16 have one")
        self.dtype = dtype
        sizes = [ctypes.c_long] * 4
        self._run = function(f"few_rows_{_NAMES[dtype]}", [ctypes.c_void_p] * 3 + sizes, *flags)
        self._run_some = function(f"few_rows_some_{_NAMES[dtype]}", [ctypes.c_void_p] * 4 + sizes, *flags)

    def __call__(self, rows: Tensor, weight: Tensor) -> Tensor:
        """``rows @ weight.T``.

        Parameters
        ----------
        rows : Tensor [rows, inputs]
        weight : Tensor [outputs, inputs]
            Contiguous, as the rows are made to be.

        Returns
        -------
        Tensor [rows, outputs]

        Raises
        ------
        ValueError
            If shapes, dtypes or places do not fit.
        """
        rows = self._checked(rows, weight)
        out = rows.new_empty(rows.shape[0], weight.shape[0])
        threads = torch.get_num_threads()
        self._run(rows.data_ptr(), weight.data_ptr(), out.data_ptr(), *rows.shape, weight.shape[0], threads)
        return out

    def some(self, rows: Tensor, weight: Tensor, places: Tensor) -> Tensor:
        """``rows @ weight[places].T``, bit for bit, without a copy of the weights: those of other outputs are not read.

        Parameters
        ----------
        rows, weight : Tensor
            As of a call.
        places : int64 Tensor [some]
            Outputs, not looked at: each must be one.

        Returns
        -------
        Tensor [rows, some]
        """
        rows, places = self._checked(rows, weight), places.contiguous()
        out = rows.new_empty(rows.shape[0], len(places))
        arguments = (each.data_ptr() for each in (rows, weight, places, out))
        self._run_some(*arguments, *rows.shape, len(places), torch.get_num_threads())
        return out

    def _checked(self, rows: Tensor, weight: Tensor) -> Tensor:
        if not (
            rows.dtype == weight.dtype == self.dtype
            and rows.ndim == weight.ndim == 2
            and rows.shape[1] == weight.shape[1]
            and weight.is_contiguous()
            and rows.device.type == weight.device.type == "cpu"
        ):
            raise ValueError(
                f"few rows need [rows, inputs] and a contiguous [outputs, inputs] in {self.dtype} on the CPU, not "
                f"{list(rows.shape)} {rows.dtype} and {list(weight.shape)} {weight.dtype}"
            )
        return rows.contiguous()

"""What a block needs of a mixer that carries a state from token to token instead of keys and values."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor


class RecurrentState(Protocol):
    """The part of a layer's state that a recurrent mixer reads and writes.

    Attributes
    ----------
    tensors : dict of str to Tensor
        What the layer remembers of the text so far; at first what :meth:`RecurrentMixer.new_state` gave.
    """

    tensors: dict[str, Tensor]


@runtime_checkable
class RecurrentMixer(Protocol):
    """A mixer such as linear attention or a selective state space.

    A dataclass, so that :meth:`workbench.models.Model.variant` can name its tensors and move them. It takes the place
    of a block's attention::

        model.variant(replace={3: dataclasses.replace(model.anatomy.blocks[3], mixer=mixer)})

    Norms before and after it, and the MLP, stay the block's.

    Attributes
    ----------
    recurrent : bool
        True.
    rope_kind : str or None
        None: positions are the order of the tokens.
    """

    recurrent: ClassVar[bool]
    rope_kind: ClassVar[str | None]

    def new_state(self) -> dict[str, Tensor]:
        """The tensors of a state before the first token, of a batch of one, on the device of the weights."""

    def advance(self, x: Tensor, state: RecurrentState) -> Tensor:
        """Take rows in, one after the other, and leave the state as it is after the last of them.

        Parameters
        ----------
        x : Tensor [batch, rows, width]
            The residual stream before the block, normed.
        state : RecurrentState
            Its ``tensors`` are replaced, not written into, so that a snapshot may hold on to the old ones.

        Returns
        -------
        Tensor [batch, rows, width]
            What the sublayer adds to the residual stream, before the norm behind it.
        """

    def flops(self, rows: int) -> int:
        """Operations of so many rows, a multiply-add counted as two: projections and recurrence."""

    def bytes(self, rows: int) -> int:
        """Bytes of weights that so many rows read; those of the state are the state's to count."""

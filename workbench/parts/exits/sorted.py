"""Low-rank changes of a model's upper blocks that make models of their own of its first layers, and first neurons.

Source
------
Valipour et al., Sorted LLaMA: Unlocking the Potential of Intermediate Layers of Large Language Models for Dynamic
Inference, 2023, arXiv 2309.08968; Valipour et al., SortedNet, 2023, arXiv 2309.00255. The low-rank change of a weight:
Hu et al., LoRA, 2021, arXiv 2106.09685.

``W' = W + U D`` for every linear map of the blocks from ``first`` on. The sub-model of n layers is the first n blocks,
the final norm and the unembedding; that of a share of the width keeps in the MLPs of these blocks the first neurons of
an order of importance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from workbench.artifacts import fit
from workbench.errors import ArtifactError, SettingError
from workbench.models import Model
from workbench.parts.loading import part_tensors, sizes

NAME = "sorted_exit"
KINDS = ("query_key_value", "attention_output", "up", "down")
"""Linear maps of a block that change."""

_UNTRAINED_RANK = 4


class SortedAdapter(nn.Module):
    """The trained change of the upper blocks of a dense model.

    Parameters
    ----------
    shapes : dict of str to (int, int)
        Outputs and inputs of every linear map that changes, by its name: :func:`shapes_of`.
    rank : int
    neurons : int
        Of a block's MLP.
    depths : sequence of int
        Layers of the sub-models, increasing.
    widths : sequence of float
        Shares of the MLPs' neurons of the sub-models, falling.
    vocabulary : int
        Tokens whose order by frequency is kept.

    Attributes
    ----------
    first : int
        The first block that changes.
    order : int32 Tensor [blocks that change, neurons], a buffer
        Neurons of each of them, the most important first.
    depths, widths : Tensor, buffers
    vocabulary : int32 Tensor [tokens], a buffer
        The most frequent tokens, the most frequent first.
    acceptance : Tensor [widths, depths], a buffer
        Share of held-out places where a sub-model has the untouched model's first token.

    Notes
    -----
    Of a map of shape [outputs, inputs] the change's two factors are [rank, inputs], ``15/up/in`` in the
    ``state_dict``, and [outputs, rank], ``15/up/out``, which begins at nought.
    """

    order: Tensor
    depths: Tensor
    widths: Tensor
    vocabulary: Tensor
    acceptance: Tensor

    def __init__(
        self,
        shapes: dict[str, tuple[int, int]],
        rank: int,
        neurons: int,
        depths: Sequence[int],
        widths: Sequence[float],
        vocabulary: int,
    ) -> None:
        super().__init__()
        for name, (outputs, inputs) in shapes.items():
            self.register_parameter(f"{name}/in", nn.Parameter(torch.randn(rank, inputs) * inputs**-0.5))
            self.register_parameter(f"{name}/out", nn.Parameter(torch.zeros(outputs, rank)))
        layers = {int(name.split("/")[0]) for name in shapes}
        self.first = min(layers)
        self.register_buffer("order", torch.arange(neurons, dtype=torch.int32).repeat(len(layers), 1))
        self.register_buffer("depths", torch.tensor(depths, dtype=torch.int32))
        self.register_buffer("widths", torch.tensor(widths))
        self.register_buffer("vocabulary", torch.arange(vocabulary, dtype=torch.int32))
        self.register_buffer("acceptance", torch.zeros(len(widths), len(depths)))

    @classmethod
    def of(cls, tensors: dict[str, Tensor], model: Model) -> SortedAdapter:
        """The change whose ``state_dict`` the tensors are.

        Raises
        ------
        SettingError
            If the model is not dense; an ArtifactError if they are of something else, or do not fit it.
        """
        neurons, (changed, ordered) = neurons_of(model), sizes(tensors, "order", 2)
        first = model.layers - changed
        depths, widths = (tensors[key].tolist() for key in ("depths", "widths") if sizes(tensors, key, 1))
        if first < 0 or ordered != neurons or depths[-1] != model.layers:
            raise ArtifactError(
                f"a {NAME} of {depths[-1]} layers with {ordered} neurons does not fit {model.name}, which has "
                f"{model.layers} with {neurons}"
            )
        (known,), (rank, _) = sizes(tensors, "vocabulary", 1), sizes(tensors, f"{first}/up/in", 2)
        with torch.random.fork_rng(devices=[]):  # first values are drawn, and then replaced
            part = cls(shapes_of(model, first), rank, neurons, depths, widths, known)
        fit(part, tensors, NAME)
        every = torch.arange(neurons, device=part.order.device)
        rising = all(one < other for one, other in pairwise([0, *depths]))
        falling = widths[0] == 1 and all(one > other for one, other in pairwise([*widths, 0]))
        if not (rising and falling and bool((part.order.sort(-1).values == every).all())):
            raise ArtifactError(f"the {NAME} is damaged: its depths do not rise, or its widths or neurons are amiss")
        return part.to(tensors[f"{first}/up/in"]).requires_grad_(False)

    def factors(self, layer: int, kind: str) -> tuple[Tensor, Tensor]:
        """The change of a block's linear map, as [rank, inputs] and [outputs, rank]."""
        return self.get_parameter(f"{layer}/{kind}/in"), self.get_parameter(f"{layer}/{kind}/out")

    def kept(self, layer: int, width: float) -> Tensor:
        """Neurons of a block that a share of the width keeps, int Tensor, increasing."""
        return self.order[layer - self.first, : self.count(width)].long().sort().values

    def count(self, width: float) -> int:
        """Neurons that a share of the width keeps of every block."""
        return max(1, round(width * self.order.shape[1]))


def load_sorted(model: Model, weights: str = "bundled") -> SortedAdapter:
    """The change for a model, in its dtype.

    Parameters
    ----------
    model : Model
    weights : str
        ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.

    Raises
    ------
    SettingError
        If the model is not dense; an ArtifactError if there is no such part, or it does not fit.
    """
    neurons = neurons_of(model)

    def fresh() -> SortedAdapter:
        half = max(1, model.layers // 2)
        depths, widths = depths_of(model.layers, 1, half), widths_of(0.5, 2)
        shapes = shapes_of(model, min(half, model.layers - 1))
        return SortedAdapter(shapes, _UNTRAINED_RANK, neurons, depths, widths, 1)

    return SortedAdapter.of(part_tensors(NAME, model, weights, fresh), model)


def shapes_of(model: Model, first: int) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of the linear maps that change in the blocks from ``first`` on, by name: ``15/up``.

    Raises
    ------
    SettingError
        If a block of the model is not dense, or mixes tokens otherwise than by attention.
    """
    neurons_of(model)
    found = {}
    for block in model.anatomy.blocks[first:]:
        for kind in KINDS:
            outputs, inputs = getattr(block, kind).weight.shape
            found[f"{block.index}/{kind}"] = (outputs, inputs)
    return found


def neurons_of(model: Model) -> int:
    """Neurons of every block's MLP.

    Raises
    ------
    SettingError
        If blocks have different numbers, are not dense, or mix tokens otherwise than by attention.
    """
    for block in model.anatomy.blocks:
        if block.up is None or block.mixer.recurrent:
            raise SettingError(f"a sorted model is dense and attends; layer {block.index} of {model.name} is not so")
    numbers = {block.down.weight.shape[1] for block in model.anatomy.blocks}
    if len(numbers) != 1:
        raise SettingError(f"blocks of {model.name} have MLPs of different widths: {sorted(numbers)}")
    return numbers.pop()


def depths_of(layers: int, every: int, shallowest: int) -> list[int]:
    """Layers of sub-models: every so many down from all of them."""
    return [*range(layers, min(shallowest, layers) - 1, -every)][::-1]


def widths_of(narrowest: float, count: int) -> list[float]:
    """Shares of the width: ``count`` in even steps from 1 down."""
    return [1 - (1 - narrowest) * place / max(1, count - 1) for place in range(count)]

"""The tuned lens: one affine map per layer that brings its residual stream to the last layer's.

Source
------
Belrose et al., Eliciting Latent Predictions from Transformers with the Tuned Lens, 2023, arXiv 2303.08112;
github.com/AlignmentResearch/tuned-lens.

``stream(x) = x + U D x + b``, then the model's own final norm and unembedding.

Deviates
--------
The paper's maps are full, ``x + A x + b``; here ``A = U D`` has a low rank, as full ones of all layers of the bundled
model would take 20 MB.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from workbench.artifacts import fit
from workbench.errors import ArtifactError
from workbench.models import Model
from workbench.models.projection import Projection
from workbench.parts.exits.lens import Lens
from workbench.parts.loading import check_frequent, sizes

_RANKS = 8


class Translators(nn.Module):
    """The trained maps of all layers but the last, that of the embedding in front.

    Parameters
    ----------
    layers : int
        Of the model: as many streams come before the last one.
    width, rank : int
    vocabulary : int
        Tokens whose order by frequency is kept.
    ranks : int
        Most probable tokens of a layer that are of interest.

    Attributes
    ----------
    down : Tensor [layers, rank, width]
    up : Tensor [layers, width, rank]
    bias : Tensor [layers, width]
    vocabulary : int32 Tensor [tokens], a buffer
        The most frequent tokens, the most frequent first.
    acceptance : Tensor [layers, ranks], a buffer
        See :class:`workbench.parts.exits.Lens`.
    """

    vocabulary: Tensor
    acceptance: Tensor

    def __init__(self, layers: int, width: int, rank: int, vocabulary: int, ranks: int = _RANKS) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(layers, rank, width) * width**-0.5)
        self.up = nn.Parameter(torch.zeros(layers, width, rank))
        self.bias = nn.Parameter(torch.zeros(layers, width))
        self.register_buffer("vocabulary", torch.arange(vocabulary, dtype=torch.int32))
        self.register_buffer("acceptance", torch.zeros(layers, ranks))

    @classmethod
    def of(cls, tensors: dict[str, Tensor], model: Model) -> Translators:
        """The maps whose ``state_dict`` the tensors are.

        Raises
        ------
        ArtifactError
            If they are of something else, or do not fit the model.
        """
        layers, rank, width = sizes(tensors, "down", 3)
        if (layers, width) != (model.layers, model.anatomy.width):
            raise ArtifactError(
                f"a tuned lens of {layers} layers of width {width} does not fit {model.name}, which has {model.layers} "
                f"of width {model.anatomy.width}"
            )
        (vocabulary,), (_, ranks) = sizes(tensors, "vocabulary", 1), sizes(tensors, "acceptance", 2)
        check_frequent("the tuned lens", model, tensors["vocabulary"].long())
        with torch.random.fork_rng(devices=[]):  # first values are drawn, and then replaced
            part = cls(layers, width, rank, vocabulary, ranks)
        fit(part, tensors, "tuned lens")
        part = part.to(tensors["down"])
        return part.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Streams [layers, rows, width] of the last layer from those of all layers before it, of that shape."""
        return moved(x, self.down, self.up, self.bias)


def moved(x: Tensor, down: Tensor, up: Tensor, bias: Tensor) -> Tensor:
    """``x + U D x + b`` of streams [layers, rows, width], each layer with maps of its own: D [layers, rank, width], U
    [layers, width, rank], b [layers, width]."""
    low = torch.bmm(x.to(down.dtype), down.transpose(1, 2))
    return x + torch.baddbmm(bias[:, None], low, up.transpose(1, 2))


class TunedLens(Lens):
    """A model's streams through trained maps.

    Parameters
    ----------
    model : Model
    maps : Translators
        In the model's dtype, on its device.
    """

    def __init__(self, model: Model, maps: Translators) -> None:
        super().__init__(model, maps.vocabulary)
        self.acceptance = maps.acceptance
        multiply = model.anatomy.multiply
        self._down = [Projection(each, None, multiply) for each in maps.down.detach()]
        self._up = [Projection(each, bias, multiply) for each, bias in zip(maps.up.detach(), maps.bias.detach())]

    def stream(self, x: Tensor, layer: int) -> Tensor:
        if layer == self.last:
            return x
        return x + self._up[layer + 1](self._down[layer + 1](x))

    def flops(self, layer: int, rows: int) -> int:
        if layer == self.last:
            return 0
        return self._down[layer + 1].flops(rows) + self._up[layer + 1].flops(rows)

    def bytes(self, layer: int, rows: int) -> int:
        if layer == self.last:
            return 0
        return self._down[layer + 1].bytes(rows) + self._up[layer + 1].bytes(rows)

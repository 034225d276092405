"""A residual stream that runs ahead of the model's own: accelerators beside some layers move it on.

Source
------
Bhendawade et al., M2R2: Mixture of Multi-Rate Residuals for Efficient Transformer Inference, 2025, arXiv 2502.02040.

Formula
-------
After an accelerated layer l the model's own, slow stream is h and the accelerated one is h + a. Its lead a, nothing in
front of the first of them, is moved on by a linear map and a gated one, both of low rank::

    z = [norm(h + a), norm(h)]
    a <- f a + U D h + b + |h| V (silu(G z + c) * (E z))          * and f by channel, |h| the root mean square

Between accelerated layers both streams make the same moves, those of the model's blocks: what the slow stream attends
to, its keys and values, serves both.

Deviates
--------
The paper's formulas were not at hand, only its abstract and what is written about it. In it the accelerated stream runs
through attention of its own over the keys and values of the slow one; here it takes over the slow stream's moves, and
an accelerator costs a few hundredths of a block. The linear map beside the gated one is ours: it is where a tuned lens
can be put to begin with.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.artifacts import fit
from workbench.errors import ArtifactError
from workbench.models import Model
from workbench.models.projection import Projection
from workbench.parts.exits.lens import Lens
from workbench.parts.loading import check_frequent, part_tensors, sizes

NAME = "accelerated_residual"
_RANKS = 8
_EPS = 1e-5
_UNTRAINED_RANK = 4


class Accelerators(nn.Module):
    """The trained maps of the accelerated layers.

    Parameters
    ----------
    layers : sequence of int
        After which the accelerated stream is moved on, increasing, counted from 0.
    width : int
        Of the residual streams.
    linear, gated : int
        Ranks of the two maps.
    vocabulary : int
        Tokens whose order by frequency is kept.
    ranks : int
        Most probable tokens of a layer that are of interest.

    Attributes
    ----------
    down, up, bias : Tensor [layers, linear, width], [layers, width, linear], [layers, width]
        D, U and b.
    gate, gate_bias, enter, leave : Tensor [layers, gated, 2 width], [layers, gated], as gate, [layers, width, gated]
        G, c, E and V.
    forget : Tensor [layers, width]
        f.
    layers : int32 Tensor [layers], a buffer
    vocabulary : int32 Tensor [tokens], a buffer
        The most frequent tokens, the most frequent first.
    acceptance : Tensor [layers, ranks], a buffer
        Share of the text on which the token that the accelerated stream has at a rank is the last layer's first.
    """

    layers: Tensor
    vocabulary: Tensor
    acceptance: Tensor

    def __init__(
        self, layers: Sequence[int], width: int, linear: int, gated: int, vocabulary: int, ranks: int = _RANKS
    ) -> None:
        super().__init__()
        count, both = len(layers), 2 * width
        self.down = nn.Parameter(torch.randn(count, linear, width) * width**-0.5)
        self.up = nn.Parameter(torch.zeros(count, width, linear))
        self.bias = nn.Parameter(torch.zeros(count, width))
        self.gate = nn.Parameter(torch.randn(count, gated, both) * both**-0.5)
        self.gate_bias = nn.Parameter(torch.zeros(count, gated))
        self.enter = nn.Parameter(torch.randn(count, gated, both) * both**-0.5)
        self.leave = nn.Parameter(torch.zeros(count, width, gated))
        self.forget = nn.Parameter(torch.ones(count, width))
        self.register_buffer("layers", torch.tensor(layers, dtype=torch.int32))
        self.register_buffer("vocabulary", torch.arange(vocabulary, dtype=torch.int32))
        self.register_buffer("acceptance", torch.zeros(count, ranks))

    @classmethod
    def of(cls, tensors: dict[str, Tensor], model: Model) -> Accelerators:
        """The maps whose ``state_dict`` the tensors are.

        Raises
        ------
        ArtifactError
            If they are of something else, or do not fit the model.
        """
        count, linear, width = sizes(tensors, "down", 3)
        (_, gated, _), (_, ranks) = sizes(tensors, "gate", 3), sizes(tensors, "acceptance", 2)
        (vocabulary,), (listed,) = sizes(tensors, "vocabulary", 1), sizes(tensors, "layers", 1)
        layers = tensors["layers"].tolist()
        if width != model.anatomy.width or listed != count:
            raise ArtifactError(
                f"accelerators of {listed} layers of width {width} do not fit {model.name}, whose width is "
                f"{model.anatomy.width}"
            )
        if layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= model.layers - 1:
            raise ArtifactError(f"{model.name} has no such layers before its last, or not in this order: {layers}")
        check_frequent("the part of the accelerators", model, tensors["vocabulary"].long())
        with torch.random.fork_rng(devices=[]):  # first values are drawn, and then replaced
            part = cls(layers, width, linear, gated, vocabulary, ranks)
        fit(part, tensors, NAME)
        return part.to(tensors["down"]).requires_grad_(False)

    def forward(self, slow: Tensor) -> Tensor:
        """Accelerated streams [layers, rows, width] of the slow ones after all accelerated layers, of that shape."""
        found, lead = [], torch.zeros_like(slow[0])
        for place, h in enumerate(slow):
            size = _size(h)
            z = torch.cat((_unit(h + lead), h / size), -1)
            gated = F.silu(F.linear(z, self.gate[place], self.gate_bias[place])) * F.linear(z, self.enter[place])
            linear = F.linear(F.linear(h, self.down[place]), self.up[place], self.bias[place])
            lead = self.forget[place] * lead + linear + size * F.linear(gated, self.leave[place])
            found.append(h + lead)
        return torch.stack(found)


class AcceleratedLens(Lens):
    """Reads a layer through the accelerated stream, which has to be followed from its first layer on.

    :meth:`advance` moves any rows on. Who reads one new row after the other lets it :meth:`see` them; then
    :meth:`stream` is about the rows that were seen last. Either costs :meth:`seeing`.

    Parameters
    ----------
    model : Model
    maps : Accelerators
        In the model's dtype, on its device.

    Attributes
    ----------
    layers : list of int
        After which :meth:`advance` is called, increasing.
    """

    def __init__(self, model: Model, maps: Accelerators) -> None:
        super().__init__(model, maps.vocabulary)
        multiply = model.anatomy.multiply

        def each(weights: Tensor, biases: Tensor | None = None) -> list[Projection]:
            given = [None] * len(weights) if biases is None else list(biases.detach())
            return [Projection(weight, bias, multiply) for weight, bias in zip(weights.detach(), given)]

        self.layers: list[int] = maps.layers.tolist()
        self._place = {layer: place for place, layer in enumerate(self.layers)}
        self._down, self._up = each(maps.down), each(maps.up, maps.bias)
        self._gate, self._enter, self._leave = each(maps.gate, maps.gate_bias), each(maps.enter), each(maps.leave)
        self._forget = maps.forget.detach()
        self._lead: Tensor | None = None

    def advance(self, h: Tensor, layer: int, lead: Tensor | None = None) -> Tensor:
        """The lead [rows, width] behind an accelerator.

        Parameters
        ----------
        h : Tensor [rows, width]
            The slow stream after ``layer``.
        layer : int
            One of ``layers``.
        lead : Tensor [rows, width], optional
            That of the accelerated layer before; none in front of the first.
        """
        place, size = self._place[layer], _size(h)
        ahead = h if lead is None else h + lead
        z = torch.cat((_unit(ahead), h / size), -1)
        gated = F.silu(self._gate[place](z)) * self._enter[place](z)
        moved = self._up[place](self._down[place](h)) + size * self._leave[place](gated)
        return moved if lead is None else self._forget[place] * lead + moved

    def followed(self, layer: int) -> list[int]:
        return [each for each in self.layers if each <= layer]

    def see(self, x: Tensor, layer: int) -> None:
        self._lead = self.advance(x, layer, None if layer == self.layers[0] else self._lead)

    def stream(self, x: Tensor, layer: int) -> Tensor:
        """Of ``x`` [rows, width] after a layer on whose way the same rows were seen."""
        return x if layer < self.layers[0] or layer == self.last or self._lead is None else x + self._lead

    def flops(self, layer: int, rows: int) -> int:
        """None: what the accelerators cost is counted where a row is seen."""
        return 0

    def bytes(self, layer: int, rows: int) -> int:
        return 0

    def seeing(self, layer: int, rows: int) -> tuple[int, int]:
        place = self._place[layer]
        maps = [each[place] for each in (self._down, self._up, self._gate, self._enter, self._leave)]
        return sum(each.flops(rows) for each in maps), sum(each.bytes(rows) for each in maps)


def load_accelerated(model: Model, weights: str = "bundled") -> AcceleratedLens:
    """The accelerated stream of a model.

    Parameters
    ----------
    model : Model
    weights : str
        ``bundled``; ``untrained``, random numbers of a fixed seed after every layer; else a ``.safetensors`` file.

    Raises
    ------
    ArtifactError
        A SettingError: there are no accelerators for this model, or the file is of something else.
    """

    def fresh() -> Accelerators:
        # A model of one layer has nothing to accelerate: the stream is then never asked for.
        layers = range(max(1, model.layers - 1))
        return Accelerators(layers, model.anatomy.width, _UNTRAINED_RANK, _UNTRAINED_RANK, model.anatomy.vocabulary)

    return AcceleratedLens(model, Accelerators.of(part_tensors(NAME, model, weights, fresh), model))


def _size(h: Tensor) -> Tensor:
    """Root mean square [..., 1] of streams [..., width]."""
    return (h.float().square().mean(-1, keepdim=True) + _EPS).sqrt().to(h.dtype)


def _unit(h: Tensor) -> Tensor:
    return h / _size(h)

"""What each layer does for a whole prompt, skip, run or repeat: a small router for every layer, and the walk it says.

Source
------
Heakl, Gubri, Khan, Yun, Oh, Dr.LLM: Dynamic Layer Routing in LLMs, 2025, arXiv 2510.12773;
github.com/parameterlab/dr-llm.

A router reads the stream before its layer as the means of at most W windows of consecutive tokens, and its three
log-odds are the mean of what it makes of each: ``z = mean_w(outer gelu(inner m_w + a) + b)``.

Deviates
--------
The windows' means are scaled to unit size first: the streams of the bundled model grow a hundredfold over its layers.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.models import Model
from workbench.parts.loading import check_fit, part_tensors, sizes

NAME = "layer_router"

SKIP, RUN, REPEAT = 0, 1, 2
"""What a layer does, as the number of times that it runs."""


def windows_of(x: Tensor, windows: int) -> Tensor:
    """Means of consecutive tokens, each of unit size: float32 [at most ``windows``, width].

    Parameters
    ----------
    x : Tensor [tokens, width]
        Windows are of equal length, one token at least; what is left over at the end is in none.
    windows : int
    """
    count = min(windows, len(x))
    size = len(x) // count
    means = x[: count * size].float().view(count, size, -1).mean(1)
    return F.rms_norm(means, means.shape[-1:])


class LayerRouters(nn.Module):
    """The routers of all layers.

    Parameters
    ----------
    layers, width : int
        Of the model.
    bottleneck : int
        Numbers between a router's two linear maps.
    windows : int
        Most windows that the text is read as; kept with the part, as it means nothing read otherwise.
    """

    windows: Tensor
    counts: Tensor

    def __init__(self, layers: int, width: int, bottleneck: int = 128, windows: int = 8) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(layers, bottleneck, width) * width**-0.5)
        self.inner_bias = nn.Parameter(torch.zeros(layers, bottleneck))
        self.outer = nn.Parameter(torch.randn(layers, 3, bottleneck) * bottleneck**-0.5)
        self.outer_bias = nn.Parameter(torch.zeros(layers, 3))
        self.register_buffer("windows", torch.tensor([windows], dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(3, dtype=torch.int32))

    def forward(self, pooled: Tensor) -> Tensor:
        """Log-odds [layers, 3] of skip, run and repeat.

        Parameters
        ----------
        pooled : Tensor [layers, windows, width]
            Of the stream before every layer, as :func:`windows_of` gives them.
        """
        inside = torch.einsum("lwd,lhd->lwh", pooled, self.inner) + self.inner_bias[:, None]
        said = torch.einsum("lwh,lch->lwc", F.gelu(inside, approximate="tanh"), self.outer)
        return said.mean(1) + self.outer_bias


class Routers:
    """Trained routers as a run asks them.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Of :class:`LayerRouters`, on the model's device.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors, self.windows = tensors, int(tensors["windows"])
        self._bottleneck, self._width = tensors["inner"].shape[1:]

    def chances(self, layer: int, x: Tensor) -> Tensor:
        """Chances [3] of skip, run and repeat, of the stream [tokens, width] before a layer."""
        weights = {key: self._tensors[key][layer].float() for key in ("inner", "inner_bias", "outer", "outer_bias")}
        inside = F.linear(windows_of(x, self.windows), weights["inner"], weights["inner_bias"])
        said = F.linear(F.gelu(inside, approximate="tanh"), weights["outer"], weights["outer_bias"])
        return said.mean(0).softmax(-1)

    def flops(self, tokens: int) -> int:
        """Of one router, pooling included."""
        return tokens * self._width + 2 * min(self.windows, tokens) * self._bottleneck * (self._width + 3)

    def bytes(self, tokens: int) -> int:
        """Its weights, and the stream that it reads."""
        element = self._tensors["inner"].element_size()
        weights = self._bottleneck * (self._width + 1) + 3 * (self._bottleneck + 1)
        return element * (weights + tokens * self._width)


def load_routers(model: Model, weights: str = "bundled", bottleneck: int = 128) -> Routers:
    """The routers of a model's layers.

    Parameters
    ----------
    model : Model
    weights : str
        ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.
    bottleneck : int
        Of untrained ones.

    Raises
    ------
    ArtifactError
        A SettingError: there is no such part, or it does not fit the model.
    """
    layers, width = model.layers, model.anatomy.width
    tensors = part_tensors(NAME, model, weights, lambda: LayerRouters(layers, width, bottleneck))
    with torch.device("meta"):
        due = LayerRouters(layers, width, sizes(tensors, "inner", 3)[1]).state_dict()
    check_fit(NAME, model, due, tensors)
    return Routers(tensors)


class ChoicePolicy(abc.ABC):
    """Slot ``depth``, with stretches (:class:`workbench.engine.slots.StretchPolicy`, which recipes load none of): every
    layer's choice is made when a pass first comes to it, and kept for all later ones.

    Parameters
    ----------
    layers : int
    """

    def __init__(self, layers: int) -> None:
        self.choices: list[int] = []
        self._layers, self._again = layers, -1
        self._stretches: list[int] = []

    @abc.abstractmethod
    def choose(self, layer: int, x: Tensor) -> int:
        """How often ``layer`` runs, of the stream [tokens, width] before it."""

    def next_layer(self, layer: int, x: Tensor) -> int | None:
        # A pass pauses before the first visit of a layer only, so that one number says which visit this was.
        if layer >= 0 and self.choices[layer] == REPEAT and self._again != layer:
            self._again = layer
            return layer
        self._again = -1
        for following in range(layer + 1, self._layers):
            if following == len(self.choices):
                self.choices.append(self.choose(following, x[0]))
            if self.choices[following] != SKIP:
                return following
        return None

    def stretch(self, layer: int) -> int:
        if len(self.choices) < self._layers:
            return layer
        if not self._stretches:
            self._stretches = stretches(self.choices)
        return self._stretches[layer]


class FixedChoices(ChoicePolicy):
    """The same choices for every text.

    Parameters
    ----------
    choices : sequence of int
        How often each layer runs: 0, 1 or 2.
    """

    def __init__(self, choices: Sequence[int]) -> None:
        super().__init__(len(choices))
        self.choices = list(choices)

    def choose(self, layer: int, x: Tensor) -> int:
        return self.choices[layer]


def stretches(choices: Sequence[int]) -> list[int]:
    """For every layer the first one, from it on, after which something else comes than the next layer."""
    last = len(choices) - 1
    ends = [last] * len(choices)
    for layer in range(last - 1, -1, -1):
        plain = choices[layer] == RUN and choices[layer + 1] != SKIP
        ends[layer] = ends[layer + 1] if plain else layer
    return ends

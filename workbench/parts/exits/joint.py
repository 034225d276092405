"""Exits whose gates and maps were trained together: what each makes of its stream, and the chance that a token leaves.

Source
------
Regol, Chataoui, Coates, Jointly-Learned Exit and Inference for a Dynamic Neural Network: JEI-DNN, 2023, arXiv
2310.09163; github.com/networkslab/dynn.

At layer l the inference module is ``x + U D x + b``, then the model's own final norm and unembedding. Its gate reads
four numbers m of the distribution p that this gives: the highest probability, the margin to the second, and how far
below their most the entropies of p and of p^2 / sum p^2 are. A token that has come to l leaves with the chance

    g_l = sigmoid(w_l . m + c_l),    so that    P(leaves at l) = g_l prod_{k<l} (1 - g_k),

and after the last layer with what is left.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from workbench.artifacts import fit
from workbench.errors import ArtifactError, SettingError
from workbench.models import Model
from workbench.models.projection import Projection
from workbench.parts.exits.fields import checked_layers
from workbench.parts.exits.lens import Lens
from workbench.parts.exits.tuned import moved
from workbench.parts.loading import check_frequent, part_tensors, sizes

NAME = "joint_exit"
FEATURES = 4
SHARPNESS = 128
"""Times its parameters that a gate's log-odds are, as one learning rate has to suit gates and maps."""

_UNTRAINED = {"rank": 4, "tokens": 32}


class JointExits(nn.Module):
    """The trained maps and gates of some layers of a model.

    Parameters
    ----------
    layers : sequence of int
        Layers after which a token may leave, increasing.
    width, rank : int
    vocabulary : int
        Tokens whose logits a gate looks at.

    Attributes
    ----------
    down : Tensor [exits, rank, width]
    up : Tensor [exits, width, rank]
    bias : Tensor [exits, width]
    gate : Tensor [exits, features]
    offset : Tensor [exits]
    layers : int32 Tensor [exits], a buffer
    vocabulary : int32 Tensor [tokens], a buffer
        The most frequent tokens.
    """

    layers: Tensor
    vocabulary: Tensor

    def __init__(self, layers: Sequence[int], width: int, rank: int, vocabulary: int) -> None:
        super().__init__()
        exits = len(layers)
        self.down = nn.Parameter(torch.randn(exits, rank, width) * width**-0.5)
        self.up = nn.Parameter(torch.zeros(exits, width, rank))
        self.bias = nn.Parameter(torch.zeros(exits, width))
        self.gate = nn.Parameter(torch.zeros(exits, FEATURES))
        self.offset = nn.Parameter(torch.zeros(exits))
        self.register_buffer("layers", torch.tensor(layers, dtype=torch.int32))
        self.register_buffer("vocabulary", torch.arange(vocabulary, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        """Streams [exits, rows, width] to be unembedded, from those after the exits' layers, of that shape."""
        return moved(x, self.down, self.up, self.bias)

    def odds(self, features: Tensor) -> Tensor:
        """Log-odds [exits, rows] that a token leaves which has come so far, from [exits, rows, features]."""
        return SHARPNESS * ((features * self.gate[:, None]).sum(-1) + self.offset[:, None])


def features(logits: Tensor) -> Tensor:
    """What a gate reads of logits [..., tokens]: [..., features], float32, each from 0, unsure, to 1."""
    logs = logits.float().log_softmax(-1)
    most = math.log(max(2, logs.shape[-1]))
    best = logs.topk(min(2, logs.shape[-1]), -1).values.exp()
    first, second = best[..., 0], best[..., 1:].sum(-1)
    squared = (2 * logs).log_softmax(-1)
    certain = [1 + (each.exp() * each).sum(-1) / most for each in (logs, squared)]
    return torch.stack([first, first - second, *certain], -1)


def gate_flops(tokens: int, rows: int) -> int:
    """Operations of so many rows' features, of logits of so many tokens, and of a gate."""
    return rows * (9 * tokens + 2 * FEATURES)


def exit_distribution(chances: Tensor) -> Tensor:
    """Chance [exits + 1, rows] of leaving at each exit, and at the end, from that of leaving for who has come so far
    [exits, rows]."""
    stays = (1 - chances).cumprod(0)
    comes = torch.cat((torch.ones_like(stays[:1]), stays))
    return torch.cat((chances * comes[:-1], comes[-1:]))


def exit_layers(layers: int, first: float, every: int) -> list[int]:
    """Layers of ``layers`` with an exit: from a share of the depth on, every so many, and never the last.

    Raises
    ------
    SettingError
        If there is none.
    """
    found = list(checked_layers(layers, first, every))
    if not found:
        raise SettingError(f"there is no exit from {first:g} of {layers} layers on: set first lower")
    return found


class JointLens(Lens):
    """The inference modules and gates of a model's joint exits, in the model's arithmetic.

    Parameters
    ----------
    model : Model
    part : JointExits
        In the model's dtype, on its device.

    Attributes
    ----------
    layers : tuple of int
        Layers that have an exit; others are not read.
    tokens : int
        How many of the most frequent tokens a gate looks at.

    Raises
    ------
    SettingError
        From :meth:`stream` and what follows from it, of a layer without an exit.
    """

    def __init__(self, model: Model, part: JointExits) -> None:
        super().__init__(model, part.vocabulary)
        self.layers, self.tokens = tuple(part.layers.tolist()), len(part.vocabulary)
        multiply, detached = model.anatomy.multiply, part.up.detach()
        self._maps = {
            layer: (Projection(down, None, multiply), Projection(up, bias, multiply))
            for layer, down, up, bias in zip(self.layers, part.down.detach(), detached, part.bias.detach())
        }
        self._gates = {
            layer: (SHARPNESS * weight, SHARPNESS * offset)
            for layer, weight, offset in zip(self.layers, part.gate.detach().float(), part.offset.detach().float())
        }

    def leaves(self, layer: int, logits: Tensor) -> Tensor:
        """Chance [rows], float32, that rows leave which have come to a layer, of its logits of the frequent tokens."""
        weight, offset = self._gates[layer]
        return ((features(logits) * weight).sum(-1) + offset).sigmoid()

    def stream(self, x: Tensor, layer: int) -> Tensor:
        if layer == self.last:
            return x
        down, up = self._map(layer)
        return x + up(down(x))

    def flops(self, layer: int, rows: int) -> int:
        return 0 if layer == self.last else sum(each.flops(rows) for each in self._map(layer))

    def bytes(self, layer: int, rows: int) -> int:
        return 0 if layer == self.last else sum(each.bytes(rows) for each in self._map(layer))

    def _map(self, layer: int) -> tuple[Projection, Projection]:
        if layer not in self._maps:
            raise SettingError(f"joint exits read the streams after layers {list(self.layers)}, not after {layer}")
        return self._maps[layer]


def load_joint(model: Model, weights: str = "bundled") -> JointLens:
    """The joint exits of ``model``.

    Parameters
    ----------
    model : Model
    weights : str
        ``bundled``; ``untrained``, of random numbers of a fixed seed, after all layers from a quarter of the depth on;
        or the path of a ``.safetensors`` file.

    Raises
    ------
    ArtifactError
        A SettingError: there are no such exits for this model. It says how to train some.
    """
    tensors = part_tensors(NAME, model, weights, functools.partial(_untrained, model))
    _, rank, width = sizes(tensors, "down", 3)
    layers = tensors[_whole(tensors, "layers")].tolist()
    vocabulary = tensors[_whole(tensors, "vocabulary")]
    if width != model.anatomy.width or not layers or not _increasing(layers, model.layers - 1):
        raise ArtifactError(f"joint exits after layers {layers} of width {width} do not fit {model.name}")
    check_frequent("the part of the joint exits", model, vocabulary)
    with torch.random.fork_rng(devices=[]):  # first values are drawn, and then replaced
        part = JointExits(layers, width, rank, len(vocabulary))
    fit(part, tensors, "joint exits")
    return JointLens(model, part.to(tensors["down"]).requires_grad_(False))


def _untrained(model: Model) -> JointExits:
    layers, anatomy = exit_layers(model.layers, 0.25, 1), model.anatomy
    part = JointExits(layers, anatomy.width, _UNTRAINED["rank"], min(_UNTRAINED["tokens"], anatomy.vocabulary))
    # Gates that look at the margin are open for some tokens of a model of random weights, and shut for others.
    part.gate.data[:, 1], part.offset.data[:] = 0.25, -0.025
    return part


def _whole(tensors: dict[str, Tensor], key: str) -> str:
    sizes(tensors, key, 1)
    if tensors[key].is_floating_point():
        raise ArtifactError(f"the file is no such part: its {key} are no whole numbers")
    return key


def _increasing(values: list[int], end: int) -> bool:
    """Whether numbers from 0 below ``end`` increase."""
    return values[0] >= 0 and values[-1] < end and all(one < other for one, other in pairwise(values))

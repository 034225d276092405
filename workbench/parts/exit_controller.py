"""At every layer, for every token: is it right already, will it be, or will no layer get it right?

Source
------
Sun, Du, Song, Li, When Neural Code Completion Models Size up the Situation: Attaining Cheaper and Faster Completion
through Dynamic Model Inference, 2024, arXiv 2401.09964; github.com/v587su/SEC.

``softmax(W_l x / rms(x) + b_l)`` of the residual stream x after layer l.

Deviates
--------
In the paper one linear map without a bias serves all layers, on the stream as it stands; here every layer may have its
own, and the stream is brought to unit size, as it grows by orders of magnitude from layer to layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.artifacts import fit
from workbench.errors import ArtifactError
from workbench.models import Model
from workbench.models.projection import Projection
from workbench.parts.exits import Lens
from workbench.parts.loading import part_tensors, sizes
from workbench_kernels.arithmetic import computes
from workbench_kernels.highest import highest

NAME = "completion_stop"
CLASSES = ("stop", "exit", "go on")
"""No layer is right; this one is, or one before it was; only a later one is."""
STOP, EXIT, GO_ON = range(3)


class ExitController(nn.Module):
    """The linear maps of all layers but the last.

    Parameters
    ----------
    maps : int
        One for each layer, or 1 for all together.
    width : int
    """

    def __init__(self, maps: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(maps, len(CLASSES), width))
        self.bias = nn.Parameter(torch.zeros(maps, len(CLASSES)))

    def forward(self, x: Tensor) -> Tensor:
        """Log-odds [layers, rows, 3] from streams [layers, rows, width]; layers is any number where one map serves
        all."""
        normed = F.rms_norm(x.to(self.weight.dtype), x.shape[-1:])
        return normed @ self.weight.transpose(1, 2) + self.bias[:, None]


class Controller:
    """A trained controller as a run asks it.

    Parameters
    ----------
    model : Model
    maps : ExitController
        In the model's dtype, on its device.
    """

    def __init__(self, model: Model, maps: ExitController) -> None:
        weights, biases = maps.weight.detach(), maps.bias.detach()
        self._maps = [Projection(weight, bias, model.anatomy.multiply) for weight, bias in zip(weights, biases)]

    def _map(self, layer: int) -> Projection:
        return self._maps[layer if len(self._maps) > 1 else 0]

    def chances(self, layer: int, x: Tensor) -> Tensor:
        """Probabilities [rows, 3], float32, of the :data:`CLASSES`, from the stream [rows, width] after a layer."""
        return self._map(layer)(F.rms_norm(x, x.shape[-1:])).float().softmax(-1)

    def flops(self, layer: int, rows: int) -> int:
        """Operations of so many rows, a multiply-add counted as two."""
        return self._map(layer).flops(rows)

    def bytes(self, layer: int, rows: int) -> int:
        """Bytes of weights that so many rows read."""
        return self._map(layer).bytes(rows)


def load_controller(model: Model, weights: str = "bundled") -> Controller:
    """The controller of a model.

    Parameters
    ----------
    model : Model
    weights : str
        ``bundled``, ``untrained`` or the path of a ``.safetensors`` file.

    Raises
    ------
    ArtifactError
        A SettingError: there is none for this model, or the file is of something else.
    """
    layers, own = model.layers - 1, model.anatomy.width
    tensors = part_tensors(NAME, model, weights, lambda: ExitController(layers, own))
    maps, _, width = sizes(tensors, "weight", 3)
    if maps not in (1, layers) or width != own:
        raise ArtifactError(
            f"a controller of {maps} layers of width {width} does not fit {model.name}, which decides after {layers} "
            f"of width {own}"
        )
    part = ExitController(maps, width)
    fit(part, tensors, NAME)
    return Controller(model, part.to(tensors["weight"]).requires_grad_(False))


def right_at(lens: Lens, layer: int, x: Tensor, token: Tensor) -> Tensor:
    """Whether a layer is right, bool [rows]: the lens's first choice is the true next token.

    Parameters
    ----------
    lens : Lens
    layer : int
    x : Tensor [rows, width]
        Residual stream after it.
    token : int Tensor [rows]
    """
    logits = lens.head(layer)(x)
    first = highest(logits)[1] if computes(logits) else logits.argmax(-1)
    return first == token


def classes_of(first: Tensor, layers: int) -> Tensor:
    """Which of the :data:`CLASSES` tokens are of at each layer but the last, int64 [layers - 1, rows].

    Parameters
    ----------
    first : int Tensor [rows]
        The first layer that is right of each, ``layers`` where none is.
    layers : int
        Of the model.
    """
    layer = torch.arange(layers - 1, device=first.device)[:, None]
    return torch.where(first == layers, STOP, torch.where(first <= layer, EXIT, GO_ON))

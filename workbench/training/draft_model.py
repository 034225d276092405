"""A small draft model: the first layers of the main model, distilled on its next-token distributions.

Paper
-----
Zhou et al., DistillSpec: Improving Speculative Decoding via Knowledge Distillation, 2023, arXiv 2310.08461. The trimmed
vocabulary: Zhao et al., FR-Spec: Accelerating Large-Vocabulary Language Models via Frequency-Ranked Speculative
Sampling, 2025, arXiv 2502.14856.

Deviates
--------
The student is no model of its own but begins as the main model's first layers, and reads and writes through the main
model's embedding and (trimmed) unembedding, which are not stored again. The texts are the main model's own; the
divergence is the forward one, and both distributions are over the draft vocabulary alone.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.errors import SettingError
from workbench.models import Model
from workbench.parts.distilled import draft_of, layer_tensors
from workbench.settings import settings
from workbench.training._forward import residual
from workbench.training._recipe import Recipe, register
from workbench.training._vocabulary import most_frequent


@register
@settings
class DraftModel(Recipe):
    """The first layers of the main model, distilled.

    Parameters
    ----------
    layers : int
        How many.
    vocabulary : int
        Tokens it can draft: those most frequent in the training text.
    """

    steps: Annotated[int, Field(ge=1)] = 900
    batch: Annotated[int, Field(ge=1)] = 8
    length: Annotated[int, Field(ge=8)] = 512
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    layers: Annotated[int, Field(ge=1, description="layers of the draft model")] = 3
    vocabulary: Annotated[int, Field(ge=2, description="tokens it can draft")] = 8192

    paper = "Zhou et al., DistillSpec, 2023, arXiv 2310.08461; Zhao et al., FR-Spec, 2025, arXiv 2502.14856"

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        kept, covered = most_frequent(model, tokens, self._size(model))
        return {"vocabulary": kept.sort().values.int(), "covered": covered}

    def part(self, model: Model) -> DraftLayers:
        if self.layers > model.layers:
            raise SettingError(f"{model.name} has {model.layers} layers, fewer than {self.layers}")
        return DraftLayers(model, self.layers, self._size(model))

    def loss(self, model: Model, part: nn.Module, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        rows = answer[:, 1:]
        vocabulary = part.vocabulary.long()
        with torch.no_grad():
            full = model.anatomy.unembed(residual(model.anatomy, tokens)[:, :-1][rows]).float()
            target = full[:, vocabulary].log_softmax(-1)
            covered = full[:, vocabulary].logsumexp(-1) - full.logsumexp(-1)
            best = full.argmax(-1)
            del full
        drafted = part.logits(model, tokens, rows)
        log_probabilities = drafted.float().log_softmax(-1)
        loss = F.kl_div(log_probabilities, target, reduction="batchmean", log_target=True)
        with torch.no_grad():
            agreed = (vocabulary[log_probabilities.argmax(-1)] == best).float().mean()
            kept = torch.minimum((target + covered[:, None]).exp(), log_probabilities.exp()).sum(-1).mean()
        return loss, {"accuracy": float(agreed), "acceptance": float(kept)}

    def _size(self, model: Model) -> int:
        return min(self.vocabulary, model.anatomy.vocabulary)


class DraftLayers(nn.Module):
    """The trained layers and final norm, and the draft vocabulary.

    Parameters
    ----------
    model : Model
        Gives the first values.
    layers, vocabulary : int
        How many of each.
    """

    def __init__(self, model: Model, layers: int, vocabulary: int) -> None:
        super().__init__()
        for name, tensor in layer_tensors(model.anatomy, layers).items():
            # A module's names hold no dots.
            self.register_parameter(name.replace(".", "/"), nn.Parameter(tensor.detach().float().clone()))
        self.register_buffer("vocabulary", torch.arange(vocabulary, dtype=torch.int32, device=model.device))

    def logits(self, model: Model, tokens: Tensor, rows: Tensor) -> Tensor:
        """Logits [chosen, vocabulary] at the chosen places of texts.

        Parameters
        ----------
        model : Model
        tokens : int Tensor [batch, tokens]
        rows : bool Tensor [batch, tokens - 1]
        """
        named = {name.replace("/", "."): value for name, value in self.named_parameters()}
        anatomy = draft_of(model, named, self.vocabulary).anatomy
        x = residual(anatomy, tokens, torch.float32)[:, :-1][rows]
        return anatomy.unembed(x)

"""The accelerators of :class:`workbench.techniques.AcceleratedResidual`: a stream where the model's own will be.

Paper
-----
Bhendawade et al., M2R2: Mixture of Multi-Rate Residuals for Efficient Transformer Inference, 2025, arXiv 2502.02040.

At a rate R the accelerated stream p after n layers is to be where the slow one, h, is after R n: its loss is::

    |p[n] - h[R n]|^2 / |h[n] - h[R n]|^2          where R n is not behind the last layer, L
    KL(last layer || p[n])                         from there on

The mean over all accelerated layers is made least through all of them at once, as each goes on from the one before.

Deviates
--------
The paper's own losses were not at hand; see :mod:`workbench.parts.exits.accelerated`. The model's weights stay as they
are. Where the stream is to be at the end already, its linear maps begin as those of the model's tuned lens, so that few
steps are left to take. KL is taken over the most frequent tokens alone, as its cost is nearly all unembedding.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from workbench.errors import SettingError
from workbench.models import Model
from workbench.models.projection import some_outputs
from workbench.parts.exits import Translators, checked_layers, tuned_maps
from workbench.parts.exits.accelerated import Accelerators
from workbench.settings import outside, settings
from workbench.training._accuracy import note_ranks
from workbench.training._forward import some_places, streams
from workbench.training._recipe import Recipe, register
from workbench.training._vocabulary import most_frequent
from workbench.training.data import DataSettings


@register
@settings
class AcceleratedResidual(Recipe):
    """Low-rank accelerators by distillation from the streams of later layers, and from the last one's distribution.

    Parameters
    ----------
    rate : float
        How many layers of the slow stream one of the accelerated stream is worth.
    first : float
        Share of the layers in front of the first accelerated one.
    every : int
        Layers from one accelerated one to the next.
    linear, gated : int
        Ranks of an accelerator's two maps.
    lens : str
        The tuned lens to begin with: ``bundled``, or a file; ``untrained`` begins with the slow stream.
    frozen : bool
        Whether the linear maps stay what they begin as: a short training disturbs a good lens more than it betters it.
    places : int
        Tokens of a batch that are learned from in a step.
    scored : int
        Most frequent tokens that KL is taken over in training.
    vocabulary : int
        Most frequent tokens of the training text to be kept with it, for heads that look at few.

    Notes
    -----
    ``accuracy`` is the share of places where the accelerated stream has the last layer's first token, over the layers
    at which it is to be at the end; ``accuracy_first`` and ``accuracy_last`` are those of the first and the last of
    them. On held-out text KL and accuracy are over all tokens.
    """

    steps: Annotated[int, Field(ge=1, description="optimiser steps")] = 600
    batch: Annotated[int, Field(ge=1, description="texts of a step")] = 4
    length: Annotated[int, Field(ge=8, description="tokens of a text")] = 256
    learning_rate: Annotated[float, Field(gt=0, description="peak learning rate")] = 2e-3
    rate: Annotated[float, Field(ge=1, le=100, description="layers of the slow stream that one is worth")] = 2.0
    first: Annotated[float, Field(ge=0, lt=1, description="share of the layers before the first accelerator")] = 0.2
    every: Annotated[int, Field(ge=1, le=100, description="layers from one accelerator to the next")] = 3
    linear: Annotated[int, Field(ge=1, description="rank of the linear maps; a tuned lens has its own")] = 64
    gated: Annotated[int, Field(ge=1, description="rank of the gated maps")] = 64
    lens: Annotated[str, outside("lens", "tuned lens to begin with, or untrained", min_length=1)] = "bundled"
    frozen: Annotated[bool, Field(description="leave the linear maps as they begin")] = True
    places: Annotated[int, Field(ge=1, description="places of a batch that are learned from")] = 384
    scored: Annotated[int, Field(ge=1, description="frequent tokens that KL is taken over")] = 8192
    vocabulary: Annotated[int, Field(ge=1, description="frequent tokens kept with it")] = 16384

    paper = "Bhendawade et al., M2R2, 2025, arXiv 2502.02040"
    data = DataSettings(sampled=1, continued=1, new_tokens=160, length=512)

    def accelerated(self, layers: int) -> list[int]:
        """Layers of ``layers`` after which there is an accelerator.

        Raises
        ------
        SettingError
            If there is none, or none at which the stream is to be at the end.
        """
        found = list(checked_layers(layers, self.first, self.every))
        if not found or self._target(found[-1], layers) < layers:
            raise SettingError(
                f"rate={self.rate:g} with first={self.first:g} and every={self.every} never brings the stream to the "
                f"end of {layers} layers: take a higher rate, or accelerate more layers"
            )
        return found

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        kept, covered = most_frequent(model, tokens, min(self.vocabulary, model.anatomy.vocabulary))
        return {"vocabulary": kept.int(), "covered": covered}

    def part(self, model: Model) -> Accelerators:
        layers, width = self.accelerated(model.layers), model.anatomy.width
        lens = None if self.lens == "untrained" else tuned_maps(model, self.lens)
        linear = min(self.linear, width) if lens is None else lens.down.shape[1]
        size = min(self.vocabulary, model.anatomy.vocabulary)
        part = Accelerators(layers, width, linear, min(self.gated, width), size)
        if lens is not None:
            self._begin(part, lens, layers, model.layers)
            for maps in (part.down, part.up, part.bias):
                maps.requires_grad_(not self.frozen)
        return part.to(model.device)

    def loss(self, model: Model, part: Accelerators, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        anatomy, layers = model.anatomy, part.layers.tolist()
        text, place = some_places(answer, self.places)
        ends = [at for at, layer in enumerate(layers) if self._target(layer, model.layers) == model.layers]
        scored = part.vocabulary[: self.scored].long() if torch.is_grad_enabled() else slice(None)
        head = some_outputs(anatomy.head, scored)
        with torch.no_grad():
            # Before every block, and after the last: place n is the stream after n layers.
            after = streams(anatomy, tokens, text, place)
            target = _logits(model, head, after[-1]).log_softmax(-1)
            probability, best = target.exp(), target.argmax(-1)
            entropy = -(probability * target).sum(-1)
        fast = part(torch.stack([after[layer + 1] for layer in layers]).float())
        total = fast.new_zeros(())
        for at, layer in enumerate(layers):
            if at not in ends:
                aim, slow = after[self._target(layer, model.layers)].float(), after[layer + 1].float()
                gone = (aim - slow).square().sum(-1).mean()
                total = total + (fast[at].float() - aim).square().sum(-1).mean() / gone.clamp_min(1e-12)
        logits = _logits(model, head, fast[ends].to(model.dtype))
        total = total + (logits.logsumexp(-1) - (probability * logits).sum(-1) - entropy).mean(1).sum()
        firsts = logits.detach().topk(part.acceptance.shape[1], -1).indices
        shares = (firsts == best[:, None]).float().mean(1)
        note_ranks(part, torch.cat((shares.new_zeros(ends[0], shares.shape[1]), shares)))
        right = shares[:, 0].tolist()
        figures = {"accuracy": sum(right) / len(right), "accuracy_first": right[0], "accuracy_last": right[-1]}
        return total / len(layers), figures

    @classmethod
    def example(cls) -> AcceleratedResidual:
        return cls(steps=2, batch=2, length=24, every=1, linear=4, gated=4, lens="untrained", places=16, scored=64)

    def _target(self, layer: int, layers: int) -> int:
        """After how many layers the slow stream is where the accelerated one is to be after ``layer``, from 0."""
        return min(layers, round(self.rate * (layer + 1)))

    def _begin(self, part: Accelerators, lens: Translators, accelerated: list[int], layers: int) -> None:
        """Put a tuned lens in the place of the linear maps where the stream is to be at the end."""
        with torch.no_grad():
            for at, layer in enumerate(accelerated):
                if self._target(layer, layers) == layers:
                    # Its first map is of the embedding.
                    for own, given in ((part.down, lens.down), (part.up, lens.up), (part.bias, lens.bias)):
                        own[at] = given[layer + 1].float()
                    # The lens knows no lead: it is to begin with all of the way.
                    part.forget[at] = 0


def _logits(model: Model, head: Any, stream: Tensor) -> Tensor:
    """Logits [..., tokens], float32, of streams [..., width] in the model's dtype."""
    anatomy = model.anatomy
    return anatomy.finish(head(anatomy.final_norm(stream))).float()

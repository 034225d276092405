"""The acceptance head of the distilled draft model; see :class:`workbench.techniques.CandidateLength`.

Paper
-----
Huang, Guo, Wang, SpecDec++: Boosting Speculative Decoding via Adaptive Candidate Lengths, 2024, arXiv 2405.19715.

Deviates
--------
The head reads the residual stream that a token is drafted from, so what is to be foretold is the chance of acceptance
before the token is known: of sampled decoding the sum of min(p, q) over tokens, which is the mean of the paper's
min(1, p / q); of greedy decoding whether both models prefer the same token. Greedy is the default.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.drafting import distilled
from workbench.drafting.acceptance_head import AcceptanceHead as Head
from workbench.errors import SettingError
from workbench.models import Model
from workbench.settings import settings
from workbench.training._forward import residual
from workbench.training._recipe import Recipe, register

_UNTRAINED_LAYERS = 2


@register
@settings
class AcceptanceHead(Recipe):
    """Weighted binary cross-entropy on the chance that the main model keeps the draft model's next token.

    Parameters
    ----------
    draft : str
        The distilled draft model: ``bundled``, the path of its ``.safetensors`` file, or ``untrained``.
    depth : int
        Residual blocks of the head.
    rejection : float
        Weight of a rejection over that of an acceptance.
    mixing : float
        Share of the answers' tokens that are replaced by what the draft model would have said there, as the head will
        stand behind drafted tokens.
    decoding : {"greedy", "sampled"}
        What acceptance means.
    """

    steps: Annotated[int, Field(ge=1)] = 400
    batch: Annotated[int, Field(ge=1)] = 8
    length: Annotated[int, Field(ge=8)] = 512
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    draft: Annotated[str, Field(min_length=1, description="draft model: bundled, untrained, or a file")] = "bundled"
    depth: Annotated[int, Field(ge=0, le=8, description="residual blocks")] = 3
    rejection: Annotated[float, Field(gt=0, description="weight of a rejection")] = 6.0
    mixing: Annotated[float, Field(ge=0, le=1, description="share of tokens replaced by drafted ones")] = 0.15
    decoding: Annotated[Literal["greedy", "sampled"], Field(description="what acceptance means")] = "greedy"

    paper = "Huang et al., SpecDec++, 2024, arXiv 2405.19715"

    def part(self, model: Model) -> Head:
        return Head(self._draft(model).anatomy.width, self.depth).to(model.device)

    def loss(self, model: Model, part: nn.Module, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        rows = answer[:, 1:]
        with torch.no_grad():
            draft = self._draft(model)
            mixed = self._mixed(draft, tokens, answer)
            hidden = residual(draft.anatomy, mixed)[:, :-1][rows]
            label = self.accepted(
                draft,
                draft.anatomy.unembed(hidden),
                model.anatomy.unembed(residual(model.anatomy, mixed)[:, :-1][rows]),
            )
        said = part(hidden)
        each = label * F.softplus(-said) + self.rejection * (1 - label) * F.softplus(said)
        with torch.no_grad():
            right = ((said > 0) == (label > 0.5)).float().mean()
            figures = {
                "accuracy": float(right),
                "accepted": float(label.mean()),
                "predicted": float(said.sigmoid().mean()),
            }
        return each.mean(), figures

    def accepted(self, draft: Model, drafted: Tensor, own: Tensor) -> Tensor:
        """Chance [rows] that the drafted token is kept.

        Parameters
        ----------
        draft : Model
        drafted : Tensor [rows, small]
            The draft model's logits, of the tokens that it can draft.
        own : Tensor [rows, vocabulary]
            The main model's.
        """
        kept = draft.draft_vocabulary
        if self.decoding == "greedy":
            return (kept[drafted.argmax(-1)] == own.argmax(-1)).float()
        return torch.minimum(own.float().softmax(-1)[:, kept], drafted.float().softmax(-1)).sum(-1)

    def _mixed(self, draft: Model, tokens: Tensor, answer: Tensor) -> Tensor:
        """The texts with some of the answers' tokens replaced by the draft model's."""
        if not self.mixing:
            return tokens
        chosen = answer & (torch.rand(answer.shape, device=answer.device) < self.mixing)
        chosen[:, 0] = False
        rows = chosen[:, 1:]
        logits = draft.anatomy.unembed(residual(draft.anatomy, tokens)[:, :-1][rows]).float()
        if self.decoding == "greedy":
            places = logits.argmax(-1)
        else:
            places = torch.multinomial(logits.softmax(-1), 1)[:, 0] if len(logits) else logits.new_zeros(0).long()
        mixed = tokens.clone()
        mixed[chosen] = draft.draft_vocabulary[places]
        return mixed

    def _draft(self, model: Model) -> Model:
        if self.draft == "untrained":
            tensors = distilled.layer_tensors(model.anatomy, _UNTRAINED_LAYERS)
            return distilled.assemble(model, {**tensors, "vocabulary": torch.arange(model.anatomy.vocabulary)})
        found = distilled.load(model, self.draft)
        if found is None:
            raise SettingError(
                f"there is no draft model for {model.name} yet: workbench train draft_model --model {model.name}, then "
                "name its file as draft"
            )
        return found

    @classmethod
    def example(cls) -> AcceptanceHead:
        return cls(steps=2, batch=2, length=24, draft="untrained")

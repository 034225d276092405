"""The acceptance head of the distilled draft model; see :class:`workbench.techniques.CandidateLength`.

Paper
-----
Huang, Guo, Wang, SpecDec++: Boosting Speculative Decoding via Adaptive Candidate Lengths, 2024, arXiv 2405.19715.

Source
------
github.com/Kaffaljidhmah2/SpecDec_pp

The main model writes texts X. At every place of an answer the draft model draws a token Y from its distribution q given
the X before it; the label is the chance min(1, p(Y) / q(Y)) that the main model, p, keeps it. The head reads texts of
which 85 % of the tokens are Y and the others X, and is asked about the Y alone. Its loss is a cross-entropy in which a
rejection weighs six times an acceptance, over the sum of these weights.

Deviates
--------
The paper has 40,000 texts of Alpaca; here the model asks itself a few hundred questions, none of which the draft model
was distilled on. Half of the answers are greedy. The residual blocks have weights of their own, where the public code
repeats one block, and the residual stream is scaled to unit size before them instead of by the model's norm.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import artifacts
from workbench.errors import SettingError
from workbench.models import Model
from workbench.parts import distilled
from workbench.parts.acceptance import AcceptanceHead as Head
from workbench.settings import settings
from workbench.training._forward import residual
from workbench.training._recipe import Recipe, register
from workbench.training.data import DataSettings

_UNTRAINED_LAYERS = 2


@register
@settings
class AcceptanceHead(Recipe):
    """Weighted binary cross-entropy on the chance that the main model keeps a token of the draft model.

    Parameters
    ----------
    draft : str
        The distilled draft model: ``bundled``, the path of its ``.safetensors`` file, or ``untrained``.
    depth : int
        Residual blocks of the head.
    rejection : float
        Weight of a rejection over that of an acceptance.
    mixing : float
        Share of the answers' tokens that are the draft model's, as the head will stand behind drafted tokens.
    decoding : {"sampled", "greedy"}
        How Y is chosen and what keeps it: drawn, as above, or the likeliest, kept where it is the main model's too.

    Notes
    -----
    A head that minimises the loss says ``s`` with ``logit s = logit a - log rejection`` where the chance is ``a``. The
    figures turn that round, so that they are about chances:

    - ``foretold``: share of the drafted tokens whose fate, kept or not, is the one held likelier (a token of label
      ``a`` is kept ``a`` times); ``always_rejecting`` and ``by_probability`` are the same for a head that always says
      no, and for one that takes the draft model's own probability of its token for the chance;
    - ``accepted`` and ``expected``: the mean label and the mean chance said;
    - ``divergence`` [nats]: KL(label || chance said), the paper's figure, and ``constant_divergence``: of a head that
      always says the batch's mean label.
    """

    steps: Annotated[int, Field(ge=1)] = 240
    batch: Annotated[int, Field(ge=1)] = 8
    length: Annotated[int, Field(ge=8)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    draft: Annotated[str, Field(min_length=1, description="draft model: bundled, untrained, or a file")] = "bundled"
    depth: Annotated[int, Field(ge=0, le=8, description="residual blocks")] = 3
    rejection: Annotated[float, Field(gt=0, description="weight of a rejection")] = 6.0
    mixing: Annotated[float, Field(gt=0, le=1, description="share of tokens that are drafted ones")] = 0.85
    decoding: Annotated[Literal["sampled", "greedy"], Field(description="what acceptance means")] = "sampled"

    paper = "Huang et al., SpecDec++, 2024, arXiv 2405.19715"
    data = DataSettings(
        prompts=0, asked=300, sampled=1, continued=0, temperature=1.0, new_tokens=160, length=256, seed=1
    )

    def prepare(self, model: Model, tokens: Tensor) -> dict[str, Any]:
        if self.draft == "untrained":
            return {}
        return {"draft_model": artifacts.load(distilled.NAME, model, self.draft)[1]["sha256"]}

    def part(self, model: Model) -> Head:
        return Head(self._draft(model).anatomy.width, self.depth).to(model.device)

    def loss(self, model: Model, part: nn.Module, tokens: Tensor, answer: Tensor) -> tuple[Tensor, dict[str, float]]:
        rows = answer[:, 1:]
        with torch.no_grad():
            draft = self._draft(model)
            drafted = draft.anatomy.unembed(residual(draft.anatomy, tokens)[:, :-1][rows]).float()
            own = model.anatomy.unembed(residual(model.anatomy, tokens)[:, :-1][rows]).float()
            chosen, label, probability = self.draw(draft, drafted, own)
            asked = torch.rand(len(chosen), device=chosen.device) < self.mixing
            asked[0] |= not asked.any()
            mixed = tokens.clone()
            mixed[:, 1:][rows] = torch.where(asked, chosen, tokens[:, 1:][rows])
            hidden = residual(draft.anatomy, mixed)[:, 1:][rows][asked]
            label, probability = label[asked], probability[asked]
        logit = part(hidden).float()
        weight = label + self.rejection * (1 - label)
        each = label * F.softplus(-logit) + self.rejection * (1 - label) * F.softplus(logit)
        return each.sum() / weight.sum(), self._figures(logit.detach(), label, probability)

    def draw(self, draft: Model, drafted: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens Y of the draft model [rows], the chance that each is kept, and the draft model's probability of it.

        Parameters
        ----------
        draft : Model
        drafted : Tensor [rows, small]
            The draft model's logits, of the tokens that it can draft.
        own : Tensor [rows, vocabulary]
            The main model's.
        """
        distribution = drafted.softmax(-1)
        places = distribution.argmax(-1) if self.decoding == "greedy" else torch.multinomial(distribution, 1)[:, 0]
        chosen, probability = draft.draft_vocabulary[places], distribution.gather(1, places[:, None])[:, 0]
        if self.decoding == "greedy":
            return chosen, (chosen == own.argmax(-1)).float(), probability
        target = (own.gather(1, chosen[:, None])[:, 0] - own.logsumexp(-1)).exp()
        return chosen, (target / probability).clamp(max=1), probability

    def _figures(self, logit: Tensor, label: Tensor, probability: Tensor) -> dict[str, float]:
        chance = (logit + torch.tensor(self.rejection).log()).sigmoid()
        mean = label.mean()
        figures = {
            "foretold": _foretold(chance, label),
            "always_rejecting": 1 - mean,
            "by_probability": _foretold(probability, label),
            "accepted": mean,
            "expected": chance.mean(),
            "divergence": _divergence(label, chance),
            "constant_divergence": _divergence(label, mean.expand_as(label)),
        }
        return {key: float(value) for key, value in figures.items()}

    def _draft(self, model: Model) -> Model:
        if self.draft == "untrained":
            tensors = distilled.layer_tensors(model.anatomy, _UNTRAINED_LAYERS)
            return distilled.assemble(model, {**tensors, "vocabulary": torch.arange(model.anatomy.vocabulary)})
        draft = distilled.load(model, self.draft)
        if draft is None:
            raise SettingError(
                f"there is no draft model for {model.name} yet: workbench train draft_model --model {model.name}, then "
                "name its file as draft"
            )
        return draft

    @classmethod
    def example(cls) -> AcceptanceHead:
        return cls(steps=2, batch=2, length=24, draft="untrained")


def _foretold(chance: Tensor, label: Tensor) -> Tensor:
    """Share of tokens, each kept with the chance ``label``, whose fate is the one that ``chance`` holds likelier."""
    return torch.where(chance > 0.5, label, 1 - label).mean()


def _divergence(label: Tensor, chance: Tensor) -> Tensor:
    """Mean KL divergence of the chance said from the label, both of keeping or not [nats]."""
    entropy = torch.special.entr(label) + torch.special.entr(1 - label)
    return (F.binary_cross_entropy(chance.clamp(1e-6, 1 - 1e-6), label, reduction="none") - entropy).mean()

"""A drafter whose prompt is not the verifying model's, though its output is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from workbench.engine import Draft, Run
from workbench.techniques.draft._model_drafter import ModelDrafter, drafter_model


class ContextDrafter:
    """A model over a context of its own and the output so far.

    Parameters
    ----------
    run : Run
    name : str
        See :func:`workbench.techniques.draft._model_drafter.drafter_model`.
    context : sequence of int
        What it reads in place of the prompt.
    ahead : int
        Most tokens drafted at once.

    Raises
    ------
    SettingError
        If the model cannot draft for this one, or knows too few positions.
    """

    def __init__(self, run: Run, name: str, context: Sequence[int], ahead: int) -> None:
        model = drafter_model(run.model, name)
        run.check_positions(model, len(context), "retrieved")
        self.context = list(context)
        self._prompt, self._sampler = len(run.prompt), run.sampler
        self._vocabulary = run.model.anatomy.vocabulary
        self._drafter = ModelDrafter(model, run.max_new_tokens + ahead)
        self._text: list[int] = []
        self._chain: list[int] = []
        self._rows: list[Tensor] = []

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """Logits [small] after a text, of which the prompt is replaced by the context; after the text last drafted for
        and part of the chain, they are those that the chain came from."""
        beyond = len(tokens) - len(self._text)
        if self._rows and 0 <= beyond <= len(self._chain) and list(tokens[len(self._text) :]) == self._chain[:beyond]:
            if beyond == len(self._rows):
                return self._extend(self._chain[-1:])
            return self._rows[beyond]
        return self._follow(tokens)

    def distribution(self, tokens: Sequence[int], temperature: float) -> Tensor:
        """Probabilities [vocabulary] after a text, as :meth:`logits`."""
        distribution = (self.logits(tokens).float() / temperature).softmax(-1)
        return self._drafter.spread([distribution], self._vocabulary)[0]

    def chain(self, tokens: Sequence[int], length: int) -> Draft:
        """A chain of ``length`` tokens after a text; its cost includes that of what was asked for since the last."""
        drafter = self._drafter
        if length < 1:
            return Draft()
        chain = drafter.chain(self._follow(tokens), self._sampler, length, self._extend)
        self._chain = chain.tokens
        probabilities = drafter.spread(chain.distributions, self._vocabulary)
        draft = Draft(list(chain.tokens), None, probabilities, drafter.flops, drafter.bytes, chain.confidence)
        drafter.reset_counts()
        return draft

    def _extend(self, tokens: list[int]) -> Tensor:
        self._rows.append(self._drafter.extend(tokens))
        return self._rows[-1]

    def _follow(self, tokens: Sequence[int]) -> Tensor:
        self._text, self._chain = list(tokens), []
        self._rows = [self._drafter.follow([*self.context, *tokens[self._prompt :]])]
        return self._rows[0]

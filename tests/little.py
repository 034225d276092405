"""A drafter with a fixed little belief in place of a model, so that every outcome of drafting can be enumerated."""

import torch
from engine.test_accept import draft_distribution_after, logits_after

from workbench.engine import Draft
from workbench.techniques.draft._model_drafter import ModelDrafter


class LittleDrafter(ModelDrafter):
    """Believes ``draft_distribution_after``, of the first ``support`` tokens."""

    def __init__(self, support=4):
        self.vocabulary, self._support, self._text = None, support, []
        self.forwards = 0

    flops = bytes = 0

    def reset_counts(self):
        self.forwards = 0

    def follow(self, tokens):
        self.forwards += 1
        self._text = list(tokens)
        return self._logits(self._text)

    def extend(self, tokens):
        self.forwards += 1
        self._text += tokens
        return self._logits(self._text)

    def grow(self, tokens, parents, rows):
        self.forwards += 1
        tree = Draft(list(tokens), list(parents))
        return torch.stack([self._logits(self._text + tree.path_to(row)) for row in rows])

    def _logits(self, text):
        logits = draft_distribution_after(text).log()
        logits[self._support :] = -torch.inf
        return logits


def verify(policy, draft, sampler):
    """Tokens kept and the next one, by a technique's own rule under the little model."""
    logits = torch.stack([logits_after(draft.path_to(node)) for node in range(-1, len(draft.tokens))])
    path, token = policy.accept(draft, logits, sampler)
    assert all(draft.parent(node) == parent for node, parent in zip(path, [-1, *path]))
    return [draft.tokens[node] for node in path] + [token]

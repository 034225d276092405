"""One token on many ways at once through a model's layers: what the right next token loses on each.

The tokens before it take the big MLP everywhere, so that their keys and values are the model's own. Ways that agree up
to a layer are computed once up to there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.errors import SettingError
from workbench.models import Block, Model
from workbench.models.walk import causal, walk
from workbench.parts.neuron_predictor import read_of
from workbench.parts.small_big.small import BIG, SMALL, SmallMlp

Choose = Callable[[Block, Tensor], tuple[Tensor, Tensor]]
"""``choose(block, x)``: from streams [states, width] that a layer's MLP reads, which states go on, int [new], a state
as often as it goes on in different ways, and which MLP each takes, int [new]."""

_ROWS = 256  # streams unembedded at once


class Paths:
    """Ways through a model of the tokens of one text.

    Parameters
    ----------
    model : Model
    small : mapping of int to SmallMlp
        Of every dense layer.
    tokens : int Tensor [tokens]
    keys, values : sequence of Tensor [1, kv_heads, at least tokens, head_dim] or None
        Of every layer, as the model itself has them; None of a layer without attention.
    length : int, optional
        Of the text that the tokens begin, if that is longer.

    Raises
    ------
    SettingError
        If a layer carries a state from token to token.
    """

    def __init__(
        self,
        model: Model,
        small: Mapping[int, SmallMlp],
        tokens: Tensor,
        keys: Sequence[Tensor | None],
        values: Sequence[Tensor | None],
        length: int | None = None,
    ) -> None:
        check_mixers(model)
        self._model, self._small, self._tokens, self._length = model, small, tokens, length or len(tokens)
        self._keys, self._values = keys, values

    @classmethod
    def of(cls, model: Model, small: Mapping[int, SmallMlp], tokens: Tensor) -> Paths:
        """With keys and values of a pass of its own."""
        check_mixers(model)
        anatomy, positions = model.anatomy, torch.arange(len(tokens), device=tokens.device)
        keys, values = ([None] * model.layers for _ in range(2))

        def attend(block: Block, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys[block.index], values[block.index] = key, value
            return causal(block, query, key, value)

        walk(anatomy.blocks, anatomy.embed(tokens[None], positions), anatomy.rope(positions), attend)
        return cls(model, small, tokens, keys, values)

    def losses(self, place: int, choices: Tensor) -> Tensor:
        """Loss [rows] of the token after ``place`` [nats] for each way, int [rows, layers] of NONE, SMALL and BIG; a
        sparse layer has no choice."""
        at = choices.new_zeros(len(choices))

        def choose(block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal at
            kinds, at = (at * 3 + choices[:, block.index]).unique(return_inverse=True)
            return kinds // 3, kinds % 3

        return self.follow(place, choose)[at]

    @torch.no_grad()
    def follow(self, place: int, choose: Choose) -> Tensor:
        """Loss [states] of the token after ``place`` [nats], in the states that were chosen last."""
        anatomy, device = self._model.anatomy, self._tokens.device
        position = torch.tensor([place], device=device)
        ropes = anatomy.rope(position, self._length)
        x = anatomy.embed(self._tokens[place, None, None], position)[0]
        for block in anatomy.blocks:
            middle = x
            if block.has_mixer:
                query, key, value = block.enter(x[:, None], ropes.get(block.rope_kind))
                middle = x + block.attention_sublayer(self._attend(block, place, query, key, value))[:, 0]
            if not block.has_mlp:
                x = middle
                continue
            read = x if block.parallel else middle
            if block.index not in self._small:
                x = middle + block.mlp_sublayer(read[None])[0]
                continue
            parents, kinds = choose(block, read)
            x = middle[parents] + self._added(block, read[parents], kinds)
        right = self._tokens[place + 1]
        found = []
        for rows in x.split(_ROWS):
            logits = anatomy.unembed(rows).float()
            found.append(logits.logsumexp(-1) - logits[:, right])
        return torch.cat(found)

    def _added(self, block: Block, read: Tensor, kinds: Tensor) -> Tensor:
        added, big, small = torch.zeros_like(read), kinds == BIG, kinds == SMALL
        if big.any():
            added[big] = block.mlp_sublayer(read[big][None])[0]
        if small.any():
            added[small] = self._small[block.index](block, read_of(block, read[small])).to(added.dtype)
        return added

    def _attend(self, block: Block, place: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Weighted values [states, heads, 1, head_dim] of states that see the text before them, and each itself."""
        first = 0 if block.window is None else max(0, place + 1 - block.window)
        states, before = len(query), place - first
        mask = torch.ones(states, before + states, dtype=torch.bool, device=query.device)
        mask[:, before:] = torch.eye(states, dtype=torch.bool, device=query.device)
        # States are the rows of one pass here; each has its own key.
        query, key, value = (each.transpose(0, 2) for each in (query, key, value))
        key, value = (
            torch.cat((earlier[block.index][:, :, first:place].to(new.dtype), new), 2)
            for earlier, new in ((self._keys, key), (self._values, value))
        )
        if block.scoring.plain:
            out = F.scaled_dot_product_attention(query, key, value, mask, scale=block.scale, enable_gqa=True)
        else:
            out = block.scoring.attend(query, key, value, ~mask)
        return out.transpose(0, 2)


def check_mixers(model: Model) -> None:
    """Refuse a model of which one token alone cannot be computed.

    Raises
    ------
    SettingError
    """
    if any(block.has_mixer and block.mixer.recurrent for block in model.anatomy.blocks):
        raise SettingError(
            f"{model.name} has layers that carry a state from token to token: no token can be routed alone"
        )

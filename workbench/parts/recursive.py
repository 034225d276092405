"""A small language model whose middle layers are one block, applied as often as a router says: to be trained whole.

Source
------
Bae et al., Mixture-of-Recursions: Learning Dynamic Recursive Depths for Adaptive Token-Level Computation, 2025, arXiv
2507.10524; github.com/raymin0223/mixture_of_recursions.

With f(h) what a recursion adds to the stream h of a token, and T recursions of which the first takes every token:

* expert-choice: of the tokens still there, recursion r takes those whose g_r = sigmoid(theta_r h) is among the largest
  share of them while it is trained, above a half afterwards; h becomes h + g_r f(h);
* token-choice: softmax(W h) before the first recursion says how many a token gets, the most probable number n; behind
  its last one h becomes h + p_n (h' - h), h' what n recursions made of it;
* fixed: all of them, h + f(h) each time.

Deviates
--------
The paper's code multiplies the gate with a block's whole output, the stream it read included, by 0.1: here with what
the block adds, so that a gate of one is a plain model. Its token-choice router is an MLP of several layers; here both
are linear.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench.models.recursive import Keys, Layout, Routing, llama_config


def chosen_depths(odds: Tensor) -> tuple[Tensor, Tensor]:
    """How many recursions tokens get, int [...] from 1 on, and the probability of that number, of token-choice odds
    [..., times]."""
    probability, place = odds.float().softmax(-1).max(-1)
    return place + 1, probability


class RecursiveLanguageModel(nn.Module):
    """The unique layers, the routers, and the tokenizer that it was trained with.

    Parameters
    ----------
    layout : Layout
    vocabulary, width, neurons, heads : int
        As of a Llama; there are half as many KV heads as heads.
    routing : Routing
    keys : Keys
    tokenizer : int
        Bytes that its tokenizer takes at most.

    Attributes
    ----------
    llama : transformers.LlamaModel
        Of the unique layers; embedding and unembedding are one matrix.
    router : nn.Linear or None
    tokenizer : uint8 Tensor [bytes], a buffer
        ``tokenizer.json``, filled up with spaces.
    """

    tokenizer: Tensor

    def __init__(
        self,
        layout: Layout,
        vocabulary: int,
        width: int,
        neurons: int,
        heads: int,
        routing: Routing,
        keys: Keys,
        tokenizer: int,
    ) -> None:
        from transformers import LlamaModel

        super().__init__()
        self.layout, self.routing, self.keys = layout, routing, keys
        self.llama = LlamaModel(llama_config(layout.unique, vocabulary, width, neurons, heads))
        self.router = None if routing == "fixed" else nn.Linear(width, layout.times, bias=False)
        self.register_buffer("tokenizer", torch.full((tokenizer,), ord(" "), dtype=torch.uint8))

    def forward(self, tokens: Tensor, real: Tensor, capacity: Tensor | None = None) -> tuple[Tensor, Routed]:
        """Streams [texts, tokens, width] behind the final norm, and how the tokens were routed.

        Parameters
        ----------
        tokens : int Tensor [texts, tokens]
        real : bool Tensor [texts, tokens]
            False behind the end of a text.
        capacity : Tensor [times], optional
            Of expert-choice: the share of a text's tokens that each recursion takes, those of the highest odds. By
            default those of even odds and more, which needs no other token and is what decoding does.
        """
        x = self.llama.embed_tokens(tokens)
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        rope = self.llama.rotary_emb(x, positions)
        whole = (positions[:, None, :, None] >= positions[:, None, None, :]).contiguous()
        x = self._run(range(self.layout.first), x, whole, rope)
        routed, first, shared = Routed(real), x, _FirstKeys()
        depths = None
        if self.routing == "token":
            routed.odds = self.router(x)
            depths, gate = chosen_depths(routed.odds)
        active = real
        for recursion in range(self.layout.times):
            if self.routing == "expert":
                odds = self.router(x)[..., recursion]
                before, active = active, _taken(odds, active, real, recursion, capacity)
                routed.decided(recursion, odds, before, active)
            elif depths is not None:
                active = active & (depths > recursion)
            routed.active.append(active)
            if not active.any():
                continue
            added, index = self._recursion(recursion, x, active, rope, shared)
            if self.routing == "expert":
                added = added * torch.sigmoid(odds).gather(1, index)[..., None]
            x = x.scatter_add(1, index[..., None].expand_as(added), added.to(x.dtype))
        if depths is not None:
            x = first + gate[..., None].to(x.dtype) * (x - first)
        x = self._run(range(self.layout.first + self.layout.block, self.layout.unique), x, whole, rope)
        return self.llama.norm(x), routed

    def logits(self, streams: Tensor) -> Tensor:
        """Next-token logits [..., vocabulary] of what :meth:`forward` gave."""
        return F.linear(streams, self.llama.embed_tokens.weight)

    def flops(self, routed: Routed) -> float:
        """Operations of a forward for one token, on average over the texts: those of linear maps and of attention, a
        multiply-add counted as two."""
        layer, config, layout = self.llama.layers[0], self.llama.config, self.layout
        maps = 2 * sum(each.weight.numel() for each in layer.modules() if isinstance(each, nn.Linear))
        spared = 2 * sum(getattr(layer.self_attn, name).weight.numel() for name in ("k_proj", "v_proj"))
        per_key = 4 * config.hidden_size
        real = routed.real
        tokens = float(real.sum())
        total = tokens * 2 * self.llama.embed_tokens.weight.numel()
        total += (layout.first + layout.last) * (tokens * maps + per_key * _pairs(real, real))
        for recursion, active in enumerate(routed.active):
            borrows = self.keys == "shared" and recursion > 0
            read = _pairs(active, real if borrows else active)
            total += layout.block * (float(active.sum()) * (maps - borrows * spared) + per_key * read)
        return total / tokens

    def _recursion(
        self, recursion: int, x: Tensor, active: Tensor, rope: Any, shared: _FirstKeys
    ) -> tuple[Tensor, Tensor]:
        """What the block adds to active tokens [texts, most, width], and which those are, int [texts, most]; of a text
        with fewer than most zeros are added to others."""
        most = int(active.sum(1).max())
        index = (~active).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        valid = active.gather(1, index)
        h = x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
        mine = tuple(table.gather(1, index[..., None].expand(-1, -1, table.shape[-1])) for table in rope)
        borrows = self.keys == "shared" and recursion > 0
        if borrows:
            places = torch.arange(x.shape[1], device=x.device)
            mask = places <= index[..., None]
        else:
            mask = (index[:, None, :] <= index[..., None]) & (valid[:, None, :] | ~valid[..., None])
        shared.reading = borrows
        begin = self.layout.first
        out = self._run(range(begin, begin + self.layout.block), h, mask[:, None], mine, shared)
        return (out - h) * valid[..., None], index

    def _run(self, layers: range, x: Tensor, mask: Tensor, rope: Any, keys: Any = None) -> Tensor:
        for layer in layers:
            x = self.llama.layers[layer](x, attention_mask=mask, position_embeddings=rope, past_key_values=keys)
        return x


class Routed:
    """Which tokens ran which recursion, and what the routers' losses are of.

    Attributes
    ----------
    real : bool Tensor [texts, tokens]
    active : list of bool Tensor [texts, tokens]
        By recursion.
    odds : Tensor [texts, tokens, times] or None
        Of token-choice.
    """

    def __init__(self, real: Tensor) -> None:
        self.real, self.active, self.odds = real, list[Tensor](), None
        self._decisions: list[tuple[Tensor, Tensor]] = []

    def decided(self, recursion: int, odds: Tensor, before: Tensor, active: Tensor) -> None:
        """Expert-choice has taken some of the tokens that were there before; the first recursion takes all."""
        if recursion:
            self._decisions.append((odds[before], active[before]))

    def shares(self) -> list[float]:
        """Share of the tokens that ran each recursion."""
        tokens = float(self.real.sum())
        return [float(active.sum()) / tokens for active in self.active]

    def foretelling(self) -> tuple[Tensor, float]:
        """Binary cross-entropy of the odds with what was taken, and the share that even odds foretell."""
        if not self._decisions:
            return self.real.new_zeros((), dtype=torch.float32), 1.0
        odds = torch.cat([each for each, _ in self._decisions]).float()
        taken = torch.cat([each for _, each in self._decisions])
        return F.binary_cross_entropy_with_logits(odds, taken.float()), float(((odds > 0) == taken).float().mean())

    def balance(self) -> Tensor:
        """Of token-choice: times the sum over depths of the share of tokens that chose it and its mean probability; 1
        where all are chosen alike (Switch Transformers, arXiv 2101.03961)."""
        assert self.odds is not None
        probability = self.odds.float().softmax(-1)[self.real]
        chosen = F.one_hot(probability.argmax(-1), probability.shape[-1]).float().mean(0)
        return probability.shape[-1] * (chosen * probability.mean(0)).sum()


class _FirstKeys:
    """In place of a cache: keeps the keys and values of the first recursion's layers, and gives them to the later ones
    while ``reading``."""

    def __init__(self) -> None:
        self.reading = False
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.reading:
            self._kept.setdefault(layer, (key, value))
            return key, value
        return self._kept[layer]


def _taken(odds: Tensor, active: Tensor, real: Tensor, recursion: int, capacity: Tensor | None) -> Tensor:
    """Which of the active tokens an expert-choice recursion takes."""
    if recursion == 0:
        return active
    if capacity is None:
        return active & (odds > 0)
    wanted = (capacity[recursion] * real.sum(1)).ceil().long()
    rank = odds.masked_fill(~active, -torch.inf).argsort(1, descending=True).argsort(1)
    return active & (rank < wanted[:, None])


def _pairs(asking: Tensor, held: Tensor) -> float:
    """Keys that the asking tokens read in all: those held up to each of them."""
    return float((held.long().cumsum(1) * asking).sum())


def text_pieces(text: str, size: int = 4000) -> Iterator[str]:
    """A long text in pieces, as a tokenizer is trained on."""
    yield from (text[place : place + size] for place in range(0, len(text), size))

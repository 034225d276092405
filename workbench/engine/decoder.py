"""One model with its cache and its policies: every forward of the loop goes through here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.engine.attention import ancestors, node_depths
from workbench.engine.block_cost import block_cost
from workbench.engine.draft import Lookahead
from workbench.engine.layer_attention import LayerAttention, Masks
from workbench.engine.mlp_choice import MlpChoice, choice_of
from workbench.engine.rotation import ropes
from workbench.engine.slots import check_slots
from workbench.engine.state import KeyValueCache, KeyValueState, new_cache
from workbench.models import Model

Watch = Callable[[str, int, Any], None]


class Cancelled(Exception):
    """A prompt was not read to its end, as somebody wished; the engine's own, nobody outside sees it."""


class Decoder:
    """A model, its key-value cache, and the policies that decide what runs in it.

    Parameters
    ----------
    model : Model
    reserve : int
        Tokens to make room for after the prompt.
    policies : dict of str to object
        Policy of each slot among ``context``, ``depth``, ``mlp``, ``experts``, ``prefill_attention``, ``attention``,
        ``evict`` and ``store``; missing ones run everything.
    watch : callable, optional
        ``watch(site, layer, value)`` is told every site as it passes; see :data:`workbench.models.SITES`. The value of
        ``query_key_value`` is a tuple of three; of the others a tensor.
    compiled : bool
        Whether single-token passes use the compiled steps of :mod:`workbench.engine.compiled`; policies that look
        inside a block fall back to the plain ones.

    Attributes
    ----------
    layers_run, keys_read, experts_run : list
        What ran since :meth:`reset_counts`: layer numbers, mean keys read by a query of each, experts of each sparse
        layer.
    flops, bytes, forwards : int
        Counted since then.
    attend : LayerAttention
    hidden : Tensor [tokens, width]
        Residual stream of the last pass (of a prefill in chunks: of all of them) after the last block.
    ahead : Tensor [rows, vocabulary] or None
        Logits of the last pass's lookahead rows.
    """

    def __init__(
        self,
        model: Model,
        reserve: int = 0,
        policies: dict[str, Any] | None = None,
        watch: Watch | None = None,
        compiled: bool = False,
    ) -> None:
        policies = policies or {}
        check_slots(policies)
        self.model = model
        self.anatomy = model.anatomy
        self.cache: KeyValueCache = new_cache(self.anatomy.blocks, reserve, policies.get("store"))
        self.context = policies.get("context")
        self.depth = policies.get("depth")
        self.mlp = policies.get("mlp")
        self.experts = policies.get("experts")
        self.cache_policy = policies.get("evict")
        self.watch = watch
        attention = policies.get("attention"), policies.get("prefill_attention")
        self.attend = LayerAttention(self.anatomy.device, self.anatomy.dtype, *attention)
        self._costs = [block_cost(block) for block in self.anatomy.blocks]
        self._unembedding = self.anatomy.unembedding.numel()
        self.hidden: Tensor | None = None
        self.ahead: Tensor | None = None
        self._compiled = None
        if compiled and watch is None and self.experts is None:
            from workbench.engine.compiled import compiled_steps

            self._compiled = compiled_steps(self.anatomy)
        self.reset_counts()

    def reset_counts(self) -> None:
        """Start counting anew."""
        self.layers_run: list[int] = []
        self.keys_read: list[float] = []
        self.experts_run: list[int] = []
        self.flops = self.bytes = self.forwards = 0

    @torch.inference_mode()
    def prefill(
        self,
        tokens: Sequence[int],
        chunk: int | None = None,
        logits: str = "last",
        context: int | None = None,
        length: int | None = None,
        cancel: threading.Event | None = None,
        prompt: bool = True,
    ) -> Tensor | None:
        """Run a prompt into the cache, whole or in chunks of ``chunk`` tokens.

        Parameters
        ----------
        tokens : sequence of int
        chunk : int, optional
        logits : {"last", "all", "none"}
        context : int, optional
            The first so many tokens are prefilled, and the ``evict`` policy compresses them; the others, the question,
            are then read after what is left, as decoded tokens are: neither the ``context`` nor the ``evict`` policy
            takes any of them away. By default all are context; 0 reads all after what the cache already holds.
        length : int, optional
            Tokens of the text that these are a part of; by default it ends with them. It decides the rotary factors
            where they hang on it.
        cancel : threading.Event, optional
            Looked at before every chunk but the first.
        prompt : bool
            Whether these are the prompt's own tokens; see :meth:`forward`.

        Returns
        -------
        Tensor
            Logits [1, vocabulary] after the last token; with ``logits="all"`` [tokens, vocabulary]; None with "none".

        Raises
        ------
        Cancelled
            The cache then holds a part of the prompt.
        """
        context = len(tokens) if context is None else context
        length = self.cache.length + len(tokens) if length is None else length
        rows, hidden = [], []
        for start, end in _parts(len(tokens), context, chunk):
            if start and cancel is not None and cancel.is_set():
                raise Cancelled
            wanted = logits if end == len(tokens) or logits == "all" else "none"
            part = tokens[start:end]
            rows.append(self.forward(part, None, wanted, end <= context, end == context, length=length, prompt=prompt))
            hidden.append(self.hidden)
            if end == context < len(tokens) and self.cache_policy is not None:
                self.cache_policy.settled(self.cache)
        self.hidden = torch.cat(hidden) if len(hidden) > 1 else hidden[0]
        return torch.cat(rows) if logits == "all" else rows[-1]

    @torch.inference_mode()
    def forward(
        self,
        tokens: Sequence[int],
        parents: Sequence[int] | None = None,
        logits: str = "last",
        prefill: bool = False,
        last_chunk: bool = False,
        ahead: Lookahead | None = None,
        inputs: Tensor | None = None,
        length: int | None = None,
        prompt: bool = False,
    ) -> Tensor | None:
        """Run tokens after those already in the cache.

        Parameters
        ----------
        tokens : sequence of int
        parents : sequence of int, optional
            For a tree: place of each token's parent in ``tokens``, -1 for the first. By default a chain.
        logits : {"last", "all", "none"}
        prefill, last_chunk : bool
            Whether these are prompt tokens, and the last of them.
        ahead : Lookahead, optional
            Rows to run beside the tokens; their logits go to the attribute ``ahead``, their keys stay in the cache
            until :meth:`workbench.engine.state.KeyValueCache.commit`.
        inputs : Tensor [tokens, width], optional
            Rows of the residual stream that enter the first block in place of the tokens' embeddings; then ``tokens``
            only says how many there are.
        length : int, optional
            Tokens of the text that these are read as a part of; see :meth:`prefill`. By default the first of a text
            are all of it, and later ones are read as if each had come alone.
        prompt : bool
            Whether these are the prompt's: their queries are a matter of ``prefill_attention``, else of ``attention``.

        Returns
        -------
        Tensor [1 or tokens, vocabulary] or None
        """
        anatomy, cache = self.anatomy, self.cache
        count, start = len(tokens), cache.length
        if not start:
            length = cache.read_as = length or count
        self.attend.prompt = prompt
        depths = node_depths(parents, count)
        positions = torch.tensor([start + depth for depth in depths], device=anatomy.device)
        if inputs is None:
            x = anatomy.embed(torch.tensor([list(tokens)], device=anatomy.device), positions)
        else:
            x = inputs[None]
        tables = ropes(anatomy, cache, positions, length)
        tree = None if parents is None or depths == list(range(count)) else ancestors(parents, count, anatomy.device)
        masks: Masks = {}
        for layer in cache.layers:
            layer.rows = []
        if self.watch is not None:
            self.watch("embedding", -1, x)
        index = self._next(-1, x)
        carried = None
        waiting = ahead if ahead is not None and ahead.roots else None
        while index is not None:
            block = anatomy.blocks[index]
            if waiting is not None and index >= waiting.layer:
                x = torch.cat((x, waiting.make(x[0, waiting.roots], waiting.orders)[None]), 1)
                parents = [*(range(-1, count - 1) if parents is None else parents), *waiting.parents(count)]
                depths = node_depths(parents, len(parents))
                positions = torch.tensor([start + depth for depth in depths], device=anatomy.device)
                tree = ancestors(parents, len(parents), anatomy.device)
                tables, masks, carried, waiting = ropes(anatomy, cache, positions, length), {}, None, None
            if self.context is not None and prefill:
                kept = self.context.select(index, x, positions)
                if kept is not None:
                    x, positions, carried = x[:, kept], positions[kept], None
                    tables, masks = ropes(anatomy, cache, positions, length), {}
            rope = tables.get(block.rope_kind)
            query, key, value = carried if carried is not None else block.enter(x, rope)
            carried = None
            layer = cache.layers[index]
            self._append(layer, key, value, positions, start)
            attended, keys_read = self.attend(block, query, layer, positions, tree, masks)
            if self.watch is not None:
                self.watch("query_key_value", index, (query, key, value))
            if self.cache_policy is not None and prefill and last_chunk:
                self.cache_policy.prefilled(index, query, layer)
            if prefill:
                layer.pack()
            # A depth policy looks at the residual stream between blocks, so only the plain steps serve it.
            upcoming = index + 1 if index + 1 < anatomy.layers else None
            fused = self._compiled is not None and self.depth is None and self.mlp is None and x.shape[1] == 1
            choice = choice_of(block, self.mlp, self.experts)
            if fused and self._compiled.usable(index, upcoming):
                x, carried = self._compiled.leave_and_enter(index, upcoming, x, attended, tables)
            else:
                x = block.leave(x, attended, self._watch_layer(index), choice)
                upcoming = self._next(index, x)
            self._count(index, x.shape[1], keys_read, layer, choice)
            if self.watch is not None:
                self.watch("residual", index, x)
            index = upcoming
        cache.length += count
        cache.note_peak()
        self.forwards += 1
        entered = 0 if ahead is None or waiting is not None else len(ahead.roots)
        self.hidden = x[0, : x.shape[1] - entered]
        self.ahead = None
        if logits == "none":
            return None
        rows = self.hidden if logits == "all" else self.hidden[-1:]
        count, extra = rows.shape[0], x[0, x.shape[1] - entered :]
        rows = torch.cat((rows, extra)) if entered else rows
        self.flops += 2 * self._unembedding * rows.shape[0]
        self.bytes += self._unembedding * anatomy.unembedding.element_size()
        out = anatomy.unembed(rows)
        self.ahead = out[count:] if entered else None
        return out[:count]

    def _next(self, index: int, x: Tensor) -> int | None:
        if self.depth is not None:
            return self.depth.next_layer(index, x)
        return index + 1 if index + 1 < self.anatomy.layers else None

    def _append(self, layer: KeyValueState, key: Tensor, value: Tensor, positions: Tensor, start: int) -> None:
        layer.append(key, value, positions)
        complete = layer.length == start + len(positions) if self.context is None else False
        if layer.contiguous and not complete:
            known = torch.arange(layer.length - len(positions), device=positions.device)
            layer.mark_positions(torch.cat((known, positions)))

    def _watch_layer(self, index: int) -> Callable[[str, Tensor], None] | None:
        watch = self.watch
        return None if watch is None else lambda site, value: watch(site, index, value)

    def _count(self, index: int, tokens: int, keys_read: float, layer: KeyValueState, choice: MlpChoice | None) -> None:
        cost = self._costs[index]
        self.layers_run.append(index)
        self.keys_read.append(keys_read)
        touched = min(layer.length, keys_read) if tokens == 1 else layer.length
        ran = choice or MlpChoice
        self.experts_run += [ran.experts_run] if cost.expert else []
        self.flops += cost.flops(tokens, keys_read, ran.experts_per_token) - ran.spared_flops
        self.bytes += cost.bytes(tokens, touched, ran.experts_run, layer.entry_bytes) - ran.spared_bytes


def _parts(tokens: int, context: int, chunk: int | None) -> Iterator[tuple[int, int]]:
    """Bounds of the passes of a prompt: none longer than ``chunk``, none across the end of the context."""
    for first, last in ((0, context), (context, tokens)):
        size = chunk or max(1, last - first)
        yield from ((start, min(start + size, last)) for start in range(first, last, size))

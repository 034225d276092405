"""One model with its cache and its policies: every forward of the loop goes through here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.engine.counts import Counts
from workbench.engine.draft import Look, Lookahead
from workbench.engine.fused import fused_blocks
from workbench.engine.layer_attention import LayerAttention
from workbench.engine.ledger import Ledger
from workbench.engine.passes import Pass
from workbench.engine.relations import Relation, related
from workbench.engine.rows import PassError
from workbench.engine.running import Running
from workbench.engine.shelf import Shelf
from workbench.engine.slots import check_slots
from workbench.engine.state import KeyValueCache, new_cache
from workbench.models import Model

Watch = Callable[[str, int, Any], None]


class Cancelled(Exception):
    """A prompt was not read to its end, as somebody wished; the engine's own, nobody outside sees it."""


class Decoder(Counts):
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
    ledger : Ledger, optional
        Where FLOPs and bytes are counted; by default one of its own.

    Attributes
    ----------
    repeated : set of int
        Layers that some row has visited twice.
    removed : set of int
        Layers of which nothing is left, which no pass runs.
    attend : LayerAttention
    embeddings : Tensor [rows, width] or None
        Of placeholders, see :mod:`workbench.models.segments`.
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
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(model.anatomy.blocks, ledger or Ledger())
        policies = policies or {}
        check_slots(policies)
        self.model = model
        self.anatomy = model.anatomy
        self.removed = frozenset(block.index for block in self.anatomy.blocks if block.removed)
        self.cache: KeyValueCache = new_cache(self.anatomy.blocks, reserve, policies.get("store"))
        self.context = policies.get("context")
        self.depth = policies.get("depth")
        self.mlp = policies.get("mlp")
        self.experts = policies.get("experts")
        self.cache_policy = policies.get("evict")
        self.watch = watch
        attention = policies.get("attention"), policies.get("prefill_attention")
        self.attend = LayerAttention(self.anatomy.device, self.anatomy.dtype, *attention)
        # A depth policy may wish to hold the pass that it is asked about.
        self.opened = getattr(self.depth, "opened", None)
        self.stretch = getattr(self.depth, "stretch", None)
        self.borrowed: Mapping[int, int] = getattr(self.depth, "borrowed", {})
        self._open: Pass | None = None
        self.embeddings: Tensor | None = None
        self.repeated: set[int] = set()
        self.hidden: Tensor | None = None
        self.ahead: Tensor | None = None
        self.compiled_steps = None
        self.fused = fused_blocks(self.anatomy)
        if compiled and watch is None and self.experts is None:
            from workbench.engine.compiled import compiled_steps

            self.compiled_steps = compiled_steps(self.anatomy)

    @torch.inference_mode()
    def open(
        self,
        tokens: Sequence[int],
        parents: Sequence[int] | None = None,
        inputs: Tensor | None = None,
        length: int | None = None,
        prefill: bool = False,
        last_chunk: bool = False,
        relation: Relation | None = None,
        prompt: bool = False,
    ) -> Pass:
        """Begin a pass of tokens after those already in the cache.

        Parameters
        ----------
        tokens, parents, inputs, length, prefill, last_chunk, prompt
            As of :meth:`forward`.
        relation : Relation, optional
            In place of ``parents``: how the tokens are related otherwise, see :mod:`workbench.engine.relations`.

        Returns
        -------
        Pass
            No block of it has run. It ends with :meth:`Pass.finish` or :meth:`Pass.close`.

        Raises
        ------
        PassError
            While another one is open.
        """
        if self._open is not None:
            raise PassError("a pass of this decoder is open: finish or close it before opening another")
        self.shelf.crop(self.cache.length)
        if not len(tokens):
            raise PassError("a pass has at least one token")
        relation = relation or related(parents, len(tokens))
        if relation.count != len(tokens):
            raise PassError(f"{len(tokens)} tokens have a parent each, or a relation of as many; not {relation.count}")
        self.attend.prompt = prompt
        self._open = Pass(self, tokens, relation, inputs, length, prefill, last_chunk, prompt)
        return self._open

    @property
    def shelf(self) -> Shelf:
        """Rows that earlier passes postponed, by their place in the text; the cache's."""
        return self.cache.shelf

    def close_open(self) -> None:
        """Close the pass that somebody left open, if there is one."""
        if self._open is not None:
            self._open.close()

    def let_go(self, ended: Running) -> None:
        """A pass is over."""
        if self._open is ended:
            self._open = None

    @torch.inference_mode()
    def commit(self, passed: int, kept: Sequence[int]) -> None:
        """After a verification of ``passed`` tokens keep those at places ``kept`` (increasing) in the cache and on the
        shelf, and drop the others."""
        self.cache.commit(passed, kept)

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
        opened = self.open(tokens, parents, inputs, length, prefill, last_chunk, prompt=prompt)
        return self.complete(opened, logits, ahead)

    @torch.inference_mode()
    def complete(
        self, opened: Pass, logits: str = "last", ahead: Lookahead | None = None, looks: Sequence[Look] = ()
    ) -> Tensor | None:
        """Run a pass to its end, with looks at it and lookahead rows that join it on the way."""
        with opened:
            for look in sorted(looks, key=lambda each: each.layer):
                if ahead is not None and ahead.layer < look.layer:
                    ahead = self._join(opened, ahead)
                opened.run(look.layer)
                look.see(opened)
            if ahead is not None:
                self._join(opened, ahead)
            return opened.finish(logits)

    @staticmethod
    def _join(opened: Pass, ahead: Lookahead) -> None:
        if not ahead.roots:
            return
        opened.run(ahead.layer)
        if opened.layer is not None:
            opened.join(ahead.make(opened.streams(ahead.roots), ahead.orders), ahead.parents(opened.count))


def _parts(tokens: int, context: int, chunk: int | None) -> Iterator[tuple[int, int]]:
    """Bounds of the passes of a prompt: none longer than ``chunk``, none across the end of the context."""
    for first, last in ((0, context), (context, tokens)):
        size = chunk or max(1, last - first)
        yield from ((start, min(start + size, last)) for start in range(first, last, size))

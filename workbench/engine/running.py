"""The way of a pass's rows through the blocks: the step from one to the next, and how it is taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.engine.answers import Answers
from workbench.engine.fused import run_together
from workbench.engine.mlp_choice import choice_of
from workbench.engine.relations import Relation
from workbench.engine.rows import PassError, Rows
from workbench.engine.shelf import Shelf
from workbench.engine.state import RecurrentState
from workbench.engine.state.places import in_order
from workbench.models.block import Block

if TYPE_CHECKING:
    from workbench.engine.decoder import Decoder

Tap = Callable[[int, Any], None]


class Running(Rows):
    """Rows on their way through the blocks of a decoder's model; the base of :class:`workbench.engine.passes.Pass`,
    which documents the attributes.

    Parameters
    ----------
    decoder : Decoder
    tokens : sequence of int
    relation : Relation
    inputs : Tensor [tokens, width] or None
        What enters the first block in place of the tokens' embeddings.
    length : int or None
        Tokens of the text that these are read as a part of.
    prefill, last_chunk, prompt : bool
    """

    def __init__(
        self,
        decoder: Decoder,
        tokens: Sequence[int],
        relation: Relation,
        inputs: Tensor | None,
        length: int | None,
        prefill: bool,
        last_chunk: bool,
        prompt: bool = False,
    ) -> None:
        cache, self.prompt = decoder.cache, prompt
        self.decoder, self.tokens, self.relation = decoder, list(tokens), relation
        self.start, self.prefill, self.last_chunk = cache.length, prefill, last_chunk
        self.shelf, self.answers, self.finished = Shelf(), Answers(), False
        self._watch, self._read_as, self._length = decoder.watch, cache.read_as, length
        self._evicted: set[int] = set()
        # Layers that others read are evicted from when all have read them.
        self._late: list[tuple[int, Tensor]] = []
        self._pending = decoder.shelf.snapshot()
        if not self.start:
            self._length = cache.read_as = length or len(self.tokens)
        self._recurrent = [(layer, layer.snapshot()) for layer in cache.layers if layer.recurrent]
        self._repeated = set(decoder.repeated)
        for index, layer in enumerate(cache.layers):
            layer.rows = []
            # Entries that an earlier run left: there are more of them than tokens.
            if decoder.depth is not None and not layer.recurrent and layer.length > self.start:
                decoder.repeated.add(index)
        self._embed(range(len(self.tokens)), inputs)
        if self._watch is not None:
            self._watch("embedding", -1, self.x)
        self.layer: int | None = 0
        self.stopped: int | None = None
        try:
            if decoder.opened is not None:
                decoder.opened(self)
            self.go_on(-1)
        except BaseException:
            self.close()
            raise

    @torch.inference_mode()
    def run(self, until: int | None = None) -> None:
        """Run blocks from where the pass stands up to the first that is not below ``until``; by default to the end."""
        if self.finished:
            raise PassError("this pass is over: open another")
        try:
            while self.layer is not None and self.rows and (until is None or self.layer < until):
                if not run_together(self, until):
                    self._block(self.layer)
            while self.layer is None and self._late:
                self._evict(*self._late.pop())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Take back what the pass added to the cache and took from the decoder's shelf, if it is not finished."""
        if self.finished:
            return
        self._end()
        cache = self.decoder.cache
        for layer in cache.layers:
            if layer.rows and not layer.recurrent:
                layer.crop(layer.appended)
        for layer, snapshot in self._recurrent:
            layer.restore(snapshot)
        cache.read_as = self._read_as
        self.decoder.repeated = self._repeated
        self.decoder.shelf.restore(self._pending)

    def tap(self, site: str, callback: Tap) -> None:
        """From now on tell ``callback(layer, value)`` what passes at a site of :data:`workbench.models.SITES`."""
        earlier = self._watch

        def watch(passing: str, layer: int, value: Any) -> None:
            if earlier is not None:
                earlier(passing, layer, value)
            if passing == site:
                callback(layer, value)

        self._watch = watch

    def go_on(self, index: int) -> None:
        """Find the block to run after ``index``; one that was removed is passed over, as if it had run."""
        decoder = self.decoder
        while True:
            following = self.layer = index + 1 if index + 1 < decoder.anatomy.layers else None
            if decoder.depth is not None:
                self.layer = decoder.depth.next_layer(index, self.x)
                if self.layer is not None and not 0 <= self.layer < decoder.anatomy.layers:
                    raise PassError(
                        f"{type(decoder.depth).__name__} of the slot 'depth' chose layer {self.layer} after {index}: "
                        f"take 0 … {decoder.anatomy.layers - 1}, or None to go to the unembedding"
                    )
                self.stopped = following if self.layer is None else None
            if self.layer is None or self.layer not in decoder.removed:
                return
            index = self.layer
            self._tell(index)

    def _block(self, index: int) -> None:
        decoder = self.decoder
        block, layer = decoder.anatomy.blocks[index], decoder.cache.layers[index]
        if decoder.context is not None and self.prefill:
            self._select(index)
        if layer.recurrent:
            self._recur(index, block, layer)
            return
        rows, holder = self.x.shape[1], self._holder(index)
        own, layer = holder == index, decoder.cache.layers[holder]
        rope = self.tables.get(block.rope_kind)
        if own:
            query, key, value = self._carried or block.enter(self.x, rope)
            self._append(index, key, value, self.rows, self._straight)
        else:
            query = block.queries(self.x, rope)
        self._carried = None
        visible = self.visibility.over(layer, holder, block.window)
        attended, keys_read = decoder.attend(block, query, layer, visible)
        if self._watch is not None and own:
            self._watch("query_key_value", index, (query, key, value))
        if own and decoder.cache_policy is not None and self.prefill and self.last_chunk:
            if index in decoder.borrowed.values():
                self._late.append((index, query))
            else:
                self._evict(index, query)
        if self.prefill and own:
            layer.pack()
        # A depth policy looks at the residual stream between blocks, so only the plain steps serve it.
        upcoming = index + 1 if index + 1 < decoder.anatomy.layers else None
        steps = decoder.compiled_steps
        choice = choice_of(block, decoder.mlp, decoder.experts)
        fused = steps is not None and decoder.depth is None and decoder.mlp is None and rows == 1
        if fused and steps.usable(index, upcoming):
            self.x, self._carried = steps.leave_and_enter(index, upcoming, self.x, attended, self.tables)
            self._tell(index)
            self.layer = upcoming
        else:
            self.x = block.leave(self.x, attended, self._watch_layer(index), choice)
            self._tell(index)
            self.go_on(index)
        decoder.count_block(index, rows, keys_read, layer, choice)
        if not own:
            decoder.count_borrowed(index, rows, layer)

    def _holder(self, index: int) -> int:
        """The layer whose entries a block's queries read: its own, but where the depth policy has it borrow another's
        and that one has attention."""
        source = self.decoder.borrowed.get(index, index)
        return index if self.decoder.cache.layers[source].recurrent else source

    def _evict(self, index: int, query: Tensor) -> None:
        """The last chunk of the prompt has read a layer."""
        decoder = self.decoder
        decoder.cache_policy.prefilled(index, query, layer := decoder.cache.layers[index])
        if not layer.rows:
            self._evicted.add(index)

    def _recur(self, index: int, block: Block, layer: RecurrentState) -> None:
        """A block whose mixer carries a state from row to row, of a draft from each row's parent."""
        decoder, choice = self.decoder, choice_of(block, self.decoder.mlp, self.decoder.experts)
        rows, parents = self.x.shape[1], None if self.relation.chain else self.relation.parents
        mixed = layer.advance(block.advance, self.x, self.rows, parents, revocable=not self.prompt)
        self.x = block.add(self.x, mixed, self._watch_layer(index), choice)
        self._carried = None
        self._tell(index)
        self.go_on(index)
        decoder.count_recurrent(index, rows, layer, choice, 1 if self.prompt else rows)

    @property
    def undisturbed(self) -> bool:
        """Whether nobody watches, no block has been entered, and the rows follow one another."""
        rows = self._straight and self.rows[0] >= 0
        return rows and self._watch is None and self._carried is None and not (self.decoder.repeated or self._evicted)

    def _select(self, index: int) -> None:
        kept = self.decoder.context.select(index, self.x, self.positions)
        if kept is not None:
            self._arrange(self.x[:, kept], [self.rows[place] for place in kept.tolist()], self.positions[kept])

    def _append(self, index: int, key: Tensor, value: Tensor, rows: Sequence[int], straight: bool) -> None:
        """Add entries of rows to a layer; ``straight`` where their numbers follow one another."""
        layer = self.decoder.cache.layers[index]
        positions = self.positions if rows is self.rows else self._positions(rows)
        if layer.rows and index not in self.decoder.repeated:
            visited = set().union(*layer.rows)
            if not visited.isdisjoint(rows):
                self.decoder.repeated.add(index)
        layer.append(key, value, positions, rows)
        # Entries in the order of the text, none missing, need no positions written beside them.
        if layer.contiguous and not (straight and layer.length == self.start + rows[-1] + 1):
            entries = [row for visit in layer.rows for row in visit]
            before = layer.length - len(entries)
            whole = before + (in_order(entries) if before == self.start else 0)
            text = torch.arange(before, device=positions.device)
            layer.mark_positions(torch.cat((text, self._positions(entries))), whole)

    def _tell(self, index: int) -> None:
        """Show the stream that a block has left, or that passed one of which nothing is left."""
        if self._watch is not None:
            self._watch("residual", index, self.x)

    def _watch_layer(self, index: int) -> Callable[[str, Tensor], None] | None:
        watch = self._watch
        return None if watch is None else lambda site, value: watch(site, index, value)

    def _end(self) -> None:
        """The pass is over, and its decoder need not hold it, nor the masks that it made."""
        self.finished = True
        self.decoder.let_go(self)

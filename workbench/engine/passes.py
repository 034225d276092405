"""One pass of tokens through a model: opened, run to a layer, looked at, and resumed with the same or other rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workbench.engine.draft import Look
from workbench.engine.ledger import MODEL, POLICY, head_cost
from workbench.engine.rows import PassError
from workbench.engine.running import Running
from workbench.models.device import numbers


class Pass(Running):
    """Tokens on their way through the blocks of a decoder's model; made by :meth:`workbench.engine.Decoder.open`.

    A row is named by its number: its place among the tokens, in order; rows that join get the next numbers, and rows of
    earlier text that are computed along the negative distance to where the pass begins.

    Attributes
    ----------
    decoder : Decoder
    tokens : list of int
    relation : Relation
        Of all rows; see :mod:`workbench.engine.relations`.
    start : int
        Tokens of the text before the pass.
    x : Tensor [1, rows, width]
        Residual stream of the rows that run, before block ``layer``; not to be written to.
    rows : sequence of int
        Their numbers, increasing.
    positions : int Tensor [rows]
    layer : int or None
        The block to run next; None at the end.
    stopped : int or None
        Where the pass ended before the last layer, the layer that would have come next.
    shelf : Shelf
        Rows that :meth:`keep` left out.
    answers : Answers
        Rows that are unembedded as something else than their residual stream at the end: ``answers.give``.
    prefill, last_chunk, prompt : bool
        As of :meth:`workbench.engine.Decoder.forward`.

    Notes
    -----
    To pause changes nothing, bit for bit: ``run(k)``, then ``run()`` is ``run()``. One pass of a decoder is open at a
    time. It ends with :meth:`finish`, or with :meth:`close`, which leaves the cache as it was, except that what an
    eviction dropped in between stays dropped; leaving a ``with`` closes what is not finished.
    """

    def __enter__(self) -> Pass:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        at = "at its end" if self.layer is None else f"before layer {self.layer}"
        return f"<Pass of {len(self.tokens)} tokens after {self.start:,}, {len(self.rows)} rows {at}>"

    def exit(self) -> None:
        """Run no more blocks: go from here to the unembedding."""
        self.layer, self.stopped = None, self.layer

    def keep(self, rows: Sequence[int], shelve: bool = True) -> None:
        """Go on with some rows only; the others go to the shelf, or, not to be shelved, for good.

        A row that is on the shelf when the pass is finished has left early: it is unembedded as it stands.
        """
        self._refuse_ended()
        chosen = set(rows)
        if not chosen or not chosen <= set(self.rows):
            raise PassError(f"rows {sorted(chosen)} are not among those that run, or none at all: exit() ends a pass")
        left = [place for place, row in enumerate(self.rows) if row not in chosen]
        if left and shelve:
            self.shelf.put([self.rows[place] for place in left], self.x[0, numbers(left, self.x.device)], self.layer)
        if left:
            places = [place for place, row in enumerate(self.rows) if row in chosen]
            self._arrange(self.x[:, numbers(places, self.x.device)], [self.rows[place] for place in places])

    def revive(self, rows: Sequence[int] | None = None) -> None:
        """Take rows from the shelf, all by default, and go on with them from the present layer: those between were
        skipped for them."""
        self._refuse_ended()
        rows = self.shelf.rows() if rows is None else sorted(rows)
        if not all(row in self.shelf for row in rows):
            raise PassError(f"rows {rows} are not all on the shelf, which holds {self.shelf.rows()}")
        if rows:
            self._merge(rows, self.shelf.take(rows))

    def join(
        self, x: Tensor, parents: Sequence[int] | None = None, positions: Sequence[int] | None = None
    ) -> list[int]:
        """Let more rows, whose residual stream is ``x``, run from the present layer on.

        Parameters
        ----------
        x : Tensor [rows, width]
        parents : sequence of int, optional
            Of rows beside the tokens: for each the row that it comes after, also an earlier one of these. It sees what
            its parent sees. Their logits are ``decoder.ahead``, and :meth:`Decoder.commit` drops their keys.
        positions : sequence of int, optional
            Of rows of the text before the pass: where they stand. Each sees the text up to itself, the pass sees them
            all, and their keys stay.

        Returns
        -------
        list of int
            Their row numbers.
        """
        self._refuse_ended()
        if (parents is None) == (positions is None):
            raise PassError("rows join either after parents or at positions of the text before the pass")
        self._check_streams(x, len(positions if parents is None else parents))
        if parents is not None:
            first = self.relation.count
            self.relation = self.relation.joined(parents)
            new = list(range(first, self.relation.count))
        else:
            new = self._text_rows(positions)
        self._merge(new, x)
        return new

    def join_pending(self, layer: int | None = None) -> list[int]:
        """Let the rows join that earlier passes postponed before ``layer``, by default the present one."""
        places = self.decoder.shelf.rows(self.layer if layer is None else layer)
        return self.join(self.decoder.shelf.take(places), positions=places) if places else []

    def postpone(self) -> None:
        """Keep the rows that this pass ends without having run to its end on the decoder's shelf, so that a later pass
        may fill or run what they left out (:meth:`join_pending`)."""
        self._postponed = True

    @torch.inference_mode()
    def more(self, tokens: Sequence[int], parents: Sequence[int] | None = None, looks: Sequence[Look] = ()) -> Tensor:
        """Add tokens: they run from the first layer to where the pass stands, be it its end, and go on with it.

        Parameters
        ----------
        tokens : sequence of int
        parents : sequence of int, optional
            For each the row that it comes after; by default a chain after the last token.
        looks : sequence of Look, optional
            At the pass on their way, in the order of its layers: then the new tokens alone are its rows.

        Returns
        -------
        Tensor [tokens, width]
            Their residual stream where the pass stands.
        """
        first, layer, stopped = self.count, self.layer, self.stopped
        if self.finished or self.relation.count != first or not tokens:
            raise PassError("at least one token is added, before rows join and before the pass is over")
        self.relation = self.relation.joined(parents or range(first - 1, first - 1 + len(tokens)))
        self.tokens += tokens
        before, rows = self.x, self.rows
        self._embed(range(first, self.count))
        self.go_on(-1)
        for look in looks:
            self.run(look.layer if layer is None else min(look.layer, layer))
            look.see(self)
        self.run(layer)
        new = self.x[0]
        self._beside(before, rows, layer, stopped)
        return new

    @torch.inference_mode()
    def prune(self, kept: Sequence[int]) -> None:
        """Take all tokens but ``kept`` (increasing, each with its parent) out of the pass, and number them anew;
        rows of earlier text stay.

        Where all that is kept lies on the shelf, no block runs any more until rows are revived, join or are added.
        """
        if self.relation.count != self.count:
            raise PassError("a pass is pruned before rows join after its own")
        kept, left = list(kept), {*self.rows, *self.shelf.rows()}
        if not left & set(kept) or kept != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < self.count:
            raise PassError(f"a pass is pruned to some of its rows, {sorted(left)}, in order, and not to {kept}")
        for layer in self.decoder.cache.layers:
            layer.settle(kept)
        new = {row: place for place, row in enumerate(kept)}
        places = [place for place, row in enumerate(self.rows) if row < 0 or row in new]
        self.relation, self.tokens = self.relation.of_rows(kept), [self.tokens[row] for row in kept]
        self.shelf.settle(0, kept)
        self.answers.settle(new)
        x = self.x[:, numbers(places, self.x.device)]
        rows = [new.get(self.rows[place], self.rows[place]) for place in places]
        if rows:
            self._arrange(x, rows)
        else:
            self.x, self.rows, self.positions = x, rows, self.positions[:0]

    @torch.inference_mode()
    def fill(
        self,
        layers: Sequence[int],
        rows: Sequence[int] | None = None,
        x: Tensor | None = None,
        positions: Sequence[int] | None = None,
        who: str = POLICY,
    ) -> None:
        """Give layers keys and values of rows that do not run them, computed from a residual stream as it is.

        Parameters
        ----------
        layers : sequence of int
        rows : sequence of int, optional
            Of this pass, those on the shelf included; by default the rows that run.
        x : Tensor [rows, width], optional
            By default their own residual stream, wherever they are: the state that an exit copies upwards.
        positions : sequence of int, optional
            In place of ``rows``, with ``x``: rows of the text before the pass.
        who : str
            Whose work it is.
        """
        if self.finished:
            raise PassError("this pass is over: fill its rows before finish(), or postpone() them for a later one")
        if positions is not None:
            rows = self._text_rows(positions) if positions else []
        rows = list(self.rows if rows is None else rows)
        if not rows:
            return
        x = self.streams(rows) if x is None else x
        self._check_streams(x, len(rows))
        tables, straight = self._tables(self._positions(rows)), rows[-1] - rows[0] == len(rows) - 1
        for index in layers:
            block, layer = self.decoder.anatomy.blocks[index], self.decoder.cache.layers[index]
            if not block.has_mixer:
                continue
            if layer.recurrent:
                raise PassError(f"layer {index} carries a state: there are no keys and values to fill")
            _, key, value = block.enter(x[None], tables.get(block.rope_kind))
            self._append(index, key, value, rows, straight)
            self.decoder.count_fill(index, len(rows), who, layer)

    @torch.inference_mode()
    def unembed(
        self, rows: Sequence[int] | None = None, head: Callable[[Tensor], Tensor] | None = None, who: str = POLICY
    ) -> Tensor:
        """Logits [rows, vocabulary] of residual streams as they stand, by default of the rows that run.

        Parameters
        ----------
        rows : sequence of int, optional
        head : callable, optional
            From [rows, width]; by default the model's final norm and unembedding. It says what it costs, see
            :func:`workbench.engine.ledger.head_cost`.
        who : str
            Whose work it is.
        """
        x = self.x[0] if rows is None else self.streams(rows)
        if not len(x):
            raise PassError("there is no row to unembed: name at least one that runs or lies on the shelf")
        ledger, anatomy = self.decoder.ledger, self.decoder.anatomy
        if head is None:
            ledger.product(who, len(x), anatomy.head)
        else:
            ledger.count(who, *head_cost(head, len(x)))
        if who == MODEL:
            return (head or anatomy.unembed)(x)
        with ledger.timed(who):
            return (head or anatomy.unembed)(x)

    @torch.inference_mode()
    def finish(self, logits: str = "last") -> Tensor | None:
        """Run to the end, and let the decoder go on from there.

        Parameters
        ----------
        logits : {"last", "all", "none"}

        Returns
        -------
        Tensor [1 or tokens, vocabulary] or None
            As of :meth:`workbench.engine.Decoder.forward`.
        """
        self.run()
        decoder, count = self.decoder, self.count
        self._check_wanted(logits)
        self._put_down()
        decoder.cache.length += count
        decoder.cache.note_peak()
        decoder.forwards += 1
        self._end()
        ahead = sum(row >= count for row in self.rows) if self.rows[-1] >= count else 0
        decoder.hidden, decoder.ahead = self.x[0, : self.x.shape[1] - ahead], None
        if self.answers:
            decoder.hidden = self.answers.hidden(decoder.hidden, self.rows)
        if logits == "none":
            return None
        x = decoder.hidden if logits == "all" else decoder.hidden[-1:]
        wanted = len(x)
        x = torch.cat((x, self.x[0, self.x.shape[1] - ahead :])) if ahead else x
        out = self.answers.unembed(decoder, x, self.rows[len(self.rows) - len(x) :])
        decoder.ahead = out[wanted:] if ahead else None
        return out[:wanted]

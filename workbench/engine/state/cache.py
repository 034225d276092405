"""What all layers of a model remember of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workbench.engine.shelf import Shelf
from workbench.engine.state.dense import LayerCache
from workbench.engine.state.recurrent import RecurrentState
from workbench.errors import PromptError

if TYPE_CHECKING:
    from workbench.engine.state.protocol import LayerState
    from workbench.models import Block


class KeyValueCache:
    """The caches of all layers of one model, and how far in the text they are.

    Parameters
    ----------
    layers : int
    reserve : int
        Entries to make room for beyond those that come first: the tokens still to be generated.
    make : callable, optional
        The empty state of a layer, by its number; by default a :class:`workbench.engine.LayerCache`.

    Attributes
    ----------
    length : int
        Tokens of the text that have been through the model; evicted ones count.
    read_as : int
        Tokens of the text that the first of them were read as a part of: where a model has rotary factors for short and
        for long texts, they decide which of them all keys are rotated with.
    shelf : Shelf
        Rows that passes postponed, by their place in the text; see :meth:`workbench.engine.passes.Pass.postpone`.
    peak_bytes : int
        The most that was ever allocated.
    """

    def __init__(self, layers: int, reserve: int, make: Callable[[int], LayerState] | None = None) -> None:
        self.layers: list[Any] = [LayerCache(reserve) if make is None else make(index) for index in range(layers)]
        self.length = self.read_as = 0
        self.shelf = Shelf()
        self.peak_bytes = 0

    def __repr__(self) -> str:
        return f"<KeyValueCache of {len(self.layers)} layers after {self.length:,} tokens: {self.bytes:,} bytes>"

    def copy(self, reserve: int, make: Callable[[int], LayerState] | None = None) -> KeyValueCache:
        """A cache of the same text that shares no memory with this one, with room for ``reserve`` more tokens.

        Where ``make`` is given, what it makes for a layer says the form: entries of another one are stored anew.

        Raises
        ------
        PromptError
            If a layer has entries in one and a state in the other.
        """
        made = KeyValueCache(0, reserve)
        for index, layer in enumerate(self.layers):
            new: Any = layer if make is None else make(index)
            if new.recurrent != layer.recurrent:
                raise PromptError(
                    f"layer {index} of this state remembers the text in another way than the model's does now: go on "
                    "with the techniques of the slot 'weights' that the state was made with, or begin without it"
                )
            if new.form == layer.form:
                new = layer.copy(reserve)
            else:
                new.take(layer)
            made.layers.append(new)
        made.length, made.read_as = self.length, self.read_as
        made.shelf.restore(self.shelf.snapshot())
        made.note_peak()
        return made

    @property
    def complete(self) -> bool:
        """Whether every layer holds every token: nothing was evicted or left out."""
        return all(layer.contiguous and layer.length == self.length for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes allocated now."""
        return sum(layer.bytes for layer in self.layers)

    def bytes_by(self) -> dict[tuple[str, str], int]:
        """(kind, place) -> bytes allocated now, over all layers: ``("keys float32", "cpu")``."""
        held: Counter[tuple[str, str]] = Counter()
        for layer in self.layers:
            held.update(layer.bytes_by())
        return dict(held)

    @property
    def room(self) -> int | None:
        """Tokens that one pass may read ahead so that each reads the others as if it had come alone; None for any
        number."""
        rooms = [layer.room for layer in self.layers if layer.room is not None]
        return min(rooms) if rooms else None

    def note_peak(self) -> int:
        """Bytes allocated now, remembered if it is the most so far."""
        held = self.bytes
        self.peak_bytes = max(self.peak_bytes, held)
        return held

    def keys_kept(self) -> tuple[int, ...]:
        """Entries of every layer; where heads hold different numbers their mean, rounded; 0 of a recurrent layer."""
        return tuple(round(layer.kept) for layer in self.layers)

    def pack(self) -> None:
        """A pass of the prompt is over: stores may bring its entries into their form."""
        for layer in self.layers:
            layer.pack()

    def commit(self, passed: int, kept: Sequence[int]) -> None:
        """After a verification of ``passed`` tokens keep those at places ``kept`` (increasing) and drop the others, and
        all lookahead rows with them. A recurrent layer holds the state after every row of the pass, see
        :class:`workbench.engine.state.RecurrentState`, and takes that of the last one kept."""
        self.shelf.settle(self.length - passed, kept)
        for layer in self.layers:
            layer.settle(kept)
        self.length += len(kept) - passed

    def crop_to(self, length: int) -> int:
        """Forget every token from ``length`` on; only for caches from which nothing was evicted.

        Returns
        -------
        int
            Tokens left: ``length``, or 0 where a recurrent layer holds no state from there, so that the text has to be
            read anew.
        """
        if not all(layer.can_crop(max(0, layer.length - length)) for layer in self.layers):
            length = 0
        for layer in self.layers:
            layer.crop(max(0, layer.length - length))
        self.shelf.crop(length)
        self.length = length
        return length

    def remember(self, tokens: int) -> None:
        """Let recurrent layers hold the states of so many of the newest tokens, so that :meth:`crop_to` finds them."""
        for layer in self.layers:
            if layer.recurrent:
                layer.history = tokens

    def snapshot(self) -> tuple[int, Any, list[Any]]:
        """What :meth:`restore` goes back to, for as long as nothing is evicted."""
        return self.length, self.shelf.snapshot(), [layer.snapshot() for layer in self.layers]

    def restore(self, snapshot: tuple[int, Any, list[Any]]) -> None:
        """Forget what came after a snapshot.

        Raises
        ------
        WorkbenchError
            If something was evicted since.
        """
        self.length, pending, layers = snapshot
        self.shelf.restore(pending)
        for layer, each in zip(self.layers, layers):
            layer.restore(each)


def new_cache(blocks: Sequence[Block], reserve: int, store: Any = None) -> KeyValueCache:
    """An empty cache for these blocks, each layer's state made by the policy of the slot ``store`` if there is one;
    those of recurrent layers are their mixers' own."""
    return KeyValueCache(len(blocks), reserve, state_maker(blocks, reserve, store))


def state_maker(blocks: Sequence[Block], reserve: int, store: Any = None) -> Callable[[int], LayerState]:
    """Makes the empty state of a layer, by its number; ``store`` is the policy of the slot, or None."""

    def make(index: int) -> LayerState:
        mixer = getattr(blocks[index], "mixer", None)
        if mixer is not None and mixer.recurrent:
            return RecurrentState(mixer.new_state())
        return LayerCache(reserve) if store is None else store.state(index, blocks[index], reserve)

    return make

"""What the layers of a model remember of a text: keys and values in any form and place, or a recurrent state."""

from workbench.engine.state.cache import KeyValueCache, new_cache, state_maker
from workbench.engine.state.dense import LayerCache
from workbench.engine.state.entries import Entries
from workbench.engine.state.packed import PackedState
from workbench.engine.state.protocol import KeyValueState, LayerState, MakeMask
from workbench.engine.state.recurrent import RecurrentState

__all__ = [
    "Entries",
    "KeyValueCache",
    "KeyValueState",
    "LayerCache",
    "LayerState",
    "PackedState",
    "RecurrentState",
    "MakeMask",
    "new_cache",
    "state_maker",
]

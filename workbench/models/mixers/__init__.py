"""What mixes the tokens of a text in a block: attention over keys, or a recurrence over a state of fixed size."""

from workbench.models.mixers.attention import Attention
from workbench.models.mixers.recurrent import RecurrentMixer, RecurrentState

__all__ = ["Attention", "RecurrentMixer", "RecurrentState"]

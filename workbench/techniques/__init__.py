"""Techniques, one file each, grouped by the slot they fill. An import line here is all the registration there is."""

from workbench.engine.slots import SLOTS
from workbench.techniques._technique import Technique, register
from workbench.techniques.draft_model import DraftModel
from workbench.techniques.entropy_adaptive import EntropyAdaptive
from workbench.techniques.prompt_lookup import PromptLookup
from workbench.techniques.random_eviction import RandomEviction
from workbench.techniques.snap_kv import SnapKV
from workbench.techniques.streaming_llm import StreamingLLM
from workbench.techniques.token_select import TokenSelect
from workbench.techniques.unified_layer_skip import UnifiedLayerSkip

__all__ = [
    "SLOTS",
    "DraftModel",
    "EntropyAdaptive",
    "PromptLookup",
    "RandomEviction",
    "SnapKV",
    "StreamingLLM",
    "Technique",
    "TokenSelect",
    "UnifiedLayerSkip",
    "register",
]

"""Techniques, one file each, grouped by the slot they fill. An import line here is all the registration there is."""

from workbench.engine.slots import SLOTS
from workbench.techniques._technique import Technique, register
from workbench.techniques.candidate_length import CandidateLength
from workbench.techniques.chimera import Chimera
from workbench.techniques.clover import Clover
from workbench.techniques.cross_vocabulary_draft import CrossVocabularyDraft
from workbench.techniques.draft_model import DraftModel
from workbench.techniques.dynamic_tree import DynamicTree
from workbench.techniques.entropy_adaptive import EntropyAdaptive
from workbench.techniques.goodput import Goodput
from workbench.techniques.hidden_transfer import HiddenTransfer
from workbench.techniques.hydra_heads import HydraHeads
from workbench.techniques.lexical_units import LexicalUnits
from workbench.techniques.logits_processors import LogitsProcessors
from workbench.techniques.medusa_heads import MedusaHeads
from workbench.techniques.optimal_transport_accept import OptimalTransportAccept
from workbench.techniques.overlapped_draft import OverlappedDraft
from workbench.techniques.parallel_prompt import ParallelPrompt
from workbench.techniques.prompt_lookup import PromptLookup
from workbench.techniques.random_eviction import RandomEviction
from workbench.techniques.retrieval_cache_draft import RetrievalCacheDraft
from workbench.techniques.retrieval_context_draft import RetrievalContextDraft
from workbench.techniques.retrieval_context_transfer import RetrievalContextTransfer
from workbench.techniques.snap_kv import SnapKV
from workbench.techniques.streaming_llm import StreamingLLM
from workbench.techniques.suffix_draft import SuffixDraft
from workbench.techniques.superposed_drafts import SuperposedDrafts
from workbench.techniques.token_recycling import TokenRecycling
from workbench.techniques.token_select import TokenSelect
from workbench.techniques.trigram_draft import TrigramDraft
from workbench.techniques.unified_layer_skip import UnifiedLayerSkip
from workbench.techniques.without_replacement_tree import WithoutReplacementTree

__all__ = [
    "SLOTS",
    "CandidateLength",
    "Chimera",
    "Clover",
    "CrossVocabularyDraft",
    "DraftModel",
    "DynamicTree",
    "EntropyAdaptive",
    "Goodput",
    "HiddenTransfer",
    "HydraHeads",
    "LexicalUnits",
    "LogitsProcessors",
    "MedusaHeads",
    "OptimalTransportAccept",
    "OverlappedDraft",
    "ParallelPrompt",
    "PromptLookup",
    "RandomEviction",
    "RetrievalCacheDraft",
    "RetrievalContextDraft",
    "RetrievalContextTransfer",
    "SnapKV",
    "StreamingLLM",
    "SuffixDraft",
    "SuperposedDrafts",
    "Technique",
    "TokenRecycling",
    "TokenSelect",
    "TrigramDraft",
    "UnifiedLayerSkip",
    "WithoutReplacementTree",
    "register",
]

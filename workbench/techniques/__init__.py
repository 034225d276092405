"""Techniques, one file each, grouped by the slot they fill. An import line here is all the registration there is."""

from workbench.engine.slots import SLOTS
from workbench.techniques._technique import Technique, register
from workbench.techniques.accept.optimal_transport_accept import OptimalTransportAccept
from workbench.techniques.attention.token_select import TokenSelect
from workbench.techniques.depth.accelerated_residual import AcceleratedResidual
from workbench.techniques.depth.budgeted_exit import BudgetedExit
from workbench.techniques.depth.completion_stop import CompletionStop
from workbench.techniques.depth.confidence_exit import ConfidenceExit
from workbench.techniques.depth.joint_exit import JointExit
from workbench.techniques.depth.layer_router import LayerRouter
from workbench.techniques.depth.recursion import Recursion
from workbench.techniques.depth.unified_layer_skip import UnifiedLayerSkip
from workbench.techniques.draft.candidate_length import CandidateLength
from workbench.techniques.draft.chimera import Chimera
from workbench.techniques.draft.clover import Clover
from workbench.techniques.draft.cross_vocabulary_draft import CrossVocabularyDraft
from workbench.techniques.draft.draft_model import DraftModel
from workbench.techniques.draft.dynamic_exit_layer import DynamicExitLayer
from workbench.techniques.draft.dynamic_tree import DynamicTree
from workbench.techniques.draft.hidden_transfer import HiddenTransfer
from workbench.techniques.draft.hydra_heads import HydraHeads
from workbench.techniques.draft.lexical_units import LexicalUnits
from workbench.techniques.draft.medusa_heads import MedusaHeads
from workbench.techniques.draft.overlapped_draft import OverlappedDraft
from workbench.techniques.draft.parallel_prompt import ParallelPrompt
from workbench.techniques.draft.prompt_lookup import PromptLookup
from workbench.techniques.draft.retrieval_cache_draft import RetrievalCacheDraft
from workbench.techniques.draft.retrieval_context_draft import RetrievalContextDraft
from workbench.techniques.draft.retrieval_context_transfer import RetrievalContextTransfer
from workbench.techniques.draft.self_speculative import SelfSpeculative
from workbench.techniques.draft.suffix_draft import SuffixDraft
from workbench.techniques.draft.superposed_drafts import SuperposedDrafts
from workbench.techniques.draft.token_recycling import TokenRecycling
from workbench.techniques.draft.trigram_draft import TrigramDraft
from workbench.techniques.draft.without_replacement_tree import WithoutReplacementTree
from workbench.techniques.draft_length.goodput import Goodput
from workbench.techniques.evict.random_eviction import RandomEviction
from workbench.techniques.evict.snap_kv import SnapKV
from workbench.techniques.evict.streaming_llm import StreamingLLM
from workbench.techniques.experts.dynamic_experts import DynamicExperts
from workbench.techniques.logits.logits_processors import LogitsProcessors
from workbench.techniques.mlp.neuron_gate import NeuronGate
from workbench.techniques.mlp.small_big_router import SmallBigRouter
from workbench.techniques.switch.entropy_adaptive import EntropyAdaptive
from workbench.techniques.weights.layer_drop import LayerDrop
from workbench.techniques.weights.sorted_exit import SortedExit

__all__ = [name for name in dir() if name == "register" or name[0].isupper()]

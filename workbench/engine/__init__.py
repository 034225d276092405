"""The one decode loop: prefill, step, verify, caches and the ledger. It knows tokens, not text."""

from workbench.engine.cache import KeyValueCache, LayerCache
from workbench.engine.decoder import Decoder
from workbench.engine.generate import generate, teacher_force
from workbench.engine.sampling import Chance, Sampler
from workbench.engine.score import score
from workbench.engine.slots import SLOTS, Draft, Run, Verification
from workbench.engine.step import Step

__all__ = [
    "SLOTS",
    "Chance",
    "Decoder",
    "Draft",
    "KeyValueCache",
    "LayerCache",
    "Run",
    "Sampler",
    "Step",
    "Verification",
    "generate",
    "score",
    "teacher_force",
]

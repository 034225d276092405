"""The one decode loop: prefill, step, verify, caches and the ledger. It knows tokens, not text."""

from workbench.engine.decoder import Decoder
from workbench.engine.draft import Draft, Look, Lookahead, Verification
from workbench.engine.generate import generate, teacher_force
from workbench.engine.ledger import Ledger
from workbench.engine.passes import Pass
from workbench.engine.run import Run
from workbench.engine.sampling import Chance, Sampler
from workbench.engine.score import score
from workbench.engine.session import Generation, State
from workbench.engine.slots import SLOTS
from workbench.engine.state import KeyValueCache, KeyValueState, LayerCache, LayerState
from workbench.engine.step import Step
from workbench.engine.verify_cost import VerifyCost, verify_cost

__all__ = [
    "SLOTS",
    "Chance",
    "Decoder",
    "Draft",
    "Generation",
    "KeyValueCache",
    "KeyValueState",
    "LayerCache",
    "LayerState",
    "Ledger",
    "Look",
    "Lookahead",
    "Pass",
    "Run",
    "Sampler",
    "State",
    "Step",
    "Verification",
    "VerifyCost",
    "generate",
    "score",
    "teacher_force",
    "verify_cost",
]

"""Recipes for the small trained parts, one file each; an import line here is all the registration there is."""

from workbench.training._recipe import RECIPES, Recipe, register
from workbench.training.acceptance_head import AcceptanceHead
from workbench.training.chimera import Chimera
from workbench.training.clover import Clover
from workbench.training.curve import trace
from workbench.training.data import DataSettings, TrainingData
from workbench.training.draft_model import DraftModel
from workbench.training.evaluate import score
from workbench.training.hidden_transfer import HiddenTransfer
from workbench.training.hydra_heads import HydraHeads
from workbench.training.lexical_units import LexicalUnits
from workbench.training.medusa_heads import MedusaHeads
from workbench.training.parallel_prompt import ParallelPrompt
from workbench.training.trainer import train
from workbench.training.writing import evaluation_data, training_data

__all__ = [
    "RECIPES",
    "AcceptanceHead",
    "Chimera",
    "Clover",
    "DataSettings",
    "DraftModel",
    "HiddenTransfer",
    "HydraHeads",
    "LexicalUnits",
    "MedusaHeads",
    "ParallelPrompt",
    "Recipe",
    "TrainingData",
    "evaluation_data",
    "register",
    "score",
    "trace",
    "train",
    "training_data",
]

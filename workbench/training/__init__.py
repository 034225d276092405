"""Recipes for the small trained parts: one for each kind of part, of which every such part is a row.

A part that is trained in a way of its own has a file with its recipe here, and an import line.
"""

from __future__ import annotations

from typing import Any

from workbench.parts.trained import ROWS
from workbench.training._of_parts import recipe_of
from workbench.training._recipe import RECIPES, Recipe, register
from workbench.training.accelerated_residual import AcceleratedResidual
from workbench.training.acceptance_head import AcceptanceHead
from workbench.training.completion_stop import CompletionStop, function_texts
from workbench.training.curve import trace
from workbench.training.data import DataSettings, TrainingData
from workbench.training.draft_model import DraftModel
from workbench.training.evaluate import score
from workbench.training.expert_split import ExpertSplit
from workbench.training.joint_exit import JointExit
from workbench.training.layer_router import LayerRouter
from workbench.training.lexical_units import LexicalUnits
from workbench.training.neuron_gate import NeuronGate
from workbench.training.recursion import RecursionExpert, RecursionFixed, RecursionShared, RecursionToken
from workbench.training.small_big_router import SmallBigRouter
from workbench.training.small_mlps import SmallMlps
from workbench.training.sorted_exit import SortedExit
from workbench.training.trainer import train
from workbench.training.tuned_lens import TunedLens
from workbench.training.writing import evaluation_data, training_data

__all__ = [
    "RECIPES",
    "AcceleratedResidual",
    "AcceptanceHead",
    "CompletionStop",
    "DataSettings",
    "DraftModel",
    "LayerRouter",
    "JointExit",
    "ExpertSplit",
    "LexicalUnits",
    "NeuronGate",
    "Recipe",
    "SmallBigRouter",
    "SmallMlps",
    "RecursionExpert",
    "RecursionFixed",
    "RecursionShared",
    "RecursionToken",
    "SortedExit",
    "TrainingData",
    "TunedLens",
    "evaluation_data",
    "function_texts",
    "recipe_of",
    "register",
    "score",
    "trace",
    "train",
    "training_data",
]


for _part in ROWS:
    register(recipe_of(_part))


def __getattr__(name: str) -> Any:
    """A recipe's class by its own name, such as ``HydraHeads``."""
    for recipe in RECIPES.values():
        if recipe.__name__ == name:
            return recipe
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

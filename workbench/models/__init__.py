"""What a model is: the table of families, its proof at load, the offline models, and loading."""

from workbench.models.anatomy import SITES, Anatomy
from workbench.models.block import Block
from workbench.models.families import FAMILIES
from workbench.models.family import Family
from workbench.models.load import load
from workbench.models.model import Model

__all__ = ["FAMILIES", "SITES", "Anatomy", "Block", "Family", "Model", "load"]

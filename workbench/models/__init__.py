"""What a model is: the table of families, its verification at load, the offline models, and loading."""

from workbench.models.anatomy import SITES, Anatomy
from workbench.models.block import Block
from workbench.models.families import FAMILIES
from workbench.models.family import Family
from workbench.models.load import load
from workbench.models.model import Model
from workbench.models.segments import EmbeddingSegment

__all__ = ["FAMILIES", "SITES", "Anatomy", "Block", "EmbeddingSegment", "Family", "Model", "load"]

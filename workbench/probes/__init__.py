"""Probes, one file each. An import line here is all the registration there is."""

from workbench.probes._probe import Probe, Reader, register
from workbench.probes.attention_sparsity import AttentionSparsity
from workbench.probes.depth_use import DepthUse
from workbench.probes.effective_rank import EffectiveRank
from workbench.probes.exit_oracle import ExitOracle
from workbench.probes.expert_coactivation import ExpertCoactivation
from workbench.probes.layer_similarity import LayerSimilarity
from workbench.probes.logit_lens import LogitLens
from workbench.probes.residual_contribution import ResidualContribution
from workbench.probes.residual_velocity import ResidualVelocity
from workbench.probes.token_difficulty import TokenDifficulty
from workbench.probes.tuned_lens import TunedLens

__all__ = [name for name in dir() if name == "register" or name[0].isupper()]

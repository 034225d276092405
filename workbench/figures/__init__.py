"""Figures: functions from a trace or a study to an Altair chart, and offline pages that hold them.

An import line here is all the registration there is; a report shows the figures in this order.
"""
# ruff: noqa: I001

from workbench.figures._comparison import comparison_html
from workbench.figures._figure import FIGURES, figure
from workbench.figures._html import fragment, save_html
from workbench.figures._notebook import show
from workbench.figures._report import report
from workbench.figures.quality_speed import quality_speed
from workbench.figures.cost_breakdown import cost_breakdown, modelled_time
from workbench.figures.compute_strip import compute_strip
from workbench.figures.layer_choices import layer_choices
from workbench.figures.acceptance import acceptance
from workbench.figures.accepted_speed import accepted_speed
from workbench.figures.acceptance_by_position import acceptance_by_position
from workbench.figures.time_split import time_split
from workbench.figures.exit_timeline import exit_timeline
from workbench.figures.draft_calibration import draft_calibration
from workbench.figures.draft_tree import draft_tree
from workbench.figures.budget import budget
from workbench.figures.exit_frontier import exit_frontier
from workbench.figures.layers_right import layers_right
from workbench.figures.compatibility import compatibility
from workbench.figures.loss_curve import loss_curve
from workbench.figures.logit_lens import logit_lens
from workbench.figures.tuned_lens import lens_distance, tuned_lens
from workbench.figures.exit_oracle import exit_oracle
from workbench.figures.exit_calibration import exit_calibration
from workbench.figures.attention_sparsity import attention_sparsity
from workbench.figures.attention_map import attention_distance, attention_map
from workbench.figures.layer_similarity import angular_distance, layer_similarity
from workbench.figures.residual_contribution import residual_contribution
from workbench.figures.residual_velocity import residual_velocity
from workbench.figures.depth_use import depth_use
from workbench.figures.effective_rank import effective_rank
from workbench.figures.layer_maps import layer_maps
from workbench.figures.token_difficulty import token_difficulty
from workbench.figures.routing_gap import routing_gap
from workbench.figures.expert_coactivation import expert_coactivation

__all__ = ["FIGURES", "comparison_html", "figure", "fragment", "report", "save_html", "show", *FIGURES]

"""Statistics over logits, tokens, text and repeated measurements, one to a file; numpy in, numbers out."""

from workbench.metrics.agreement import top1_agreement
from workbench.metrics.calibration import Reliability, calibration_error, reliability
from workbench.metrics.divergence import kl_divergence, log_softmax
from workbench.metrics.intervals import Interval, measured, median_interval
from workbench.metrics.margin import margin
from workbench.metrics.means import mean_interval
from workbench.metrics.pareto import pareto_front
from workbench.metrics.perplexity import perplexity
from workbench.metrics.sample_size import prompts_needed
from workbench.metrics.stopping import covers, stopped_early
from workbench.metrics.text import exact_match, first_divergence, rouge_l, rouge_l_tokens

__all__ = [
    "Interval",
    "Reliability",
    "calibration_error",
    "covers",
    "exact_match",
    "first_divergence",
    "kl_divergence",
    "log_softmax",
    "margin",
    "mean_interval",
    "measured",
    "median_interval",
    "pareto_front",
    "perplexity",
    "prompts_needed",
    "reliability",
    "rouge_l",
    "rouge_l_tokens",
    "stopped_early",
    "top1_agreement",
]

"""Statistics over logits, tokens, text and repeated measurements, one to a file; numpy in, numbers out."""

from workbench.metrics.agreement import top1_agreement
from workbench.metrics.divergence import kl_divergence, log_softmax
from workbench.metrics.intervals import Interval, bootstrap_median
from workbench.metrics.margin import margin
from workbench.metrics.perplexity import perplexity
from workbench.metrics.text import exact_match, first_divergence, rouge_l

__all__ = [
    "Interval",
    "bootstrap_median",
    "exact_match",
    "first_divergence",
    "kl_divergence",
    "log_softmax",
    "margin",
    "perplexity",
    "rouge_l",
    "top1_agreement",
]

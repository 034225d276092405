"""What one turn of the loop yields."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from workbench.engine.logprobs import TokenLogprobs


@dataclass(frozen=True, slots=True, repr=False)
class Step:
    """Facts of one turn: the prefill of the prompt, or one decode step.

    Attributes
    ----------
    index : int
        0 is the prefill.
    phase : {"prefill", "decode"}
    tokens : tuple of int
        Tokens produced, in order; cut after a stop token.
    drafted, accepted : int
        Tokens drafted, and those of them that were kept.
    layers : tuple of int
        Layers run, in order of running.
    keys_read : tuple of float
        For each layer run, keys read by a query, averaged over queries and KV heads.
    keys_kept : tuple of int
        For each layer of the model, keys in its cache after the step; where KV heads hold different numbers their mean,
        rounded, and 0 of a recurrent layer.
    experts : tuple of int
        For each mixture-of-experts layer run, how many experts ran.
    model : str
        Name of the model that took the step.
    forwards : int
        Forwards of that model; more than one where a switch made it catch up, or a prefill came in chunks.
    seconds, draft_seconds, verify_seconds : float
        Wall clock of the step, and the parts of it that drafting and the model's forward took [s]; the rest is
        bookkeeping: choosing, accepting, tidying the cache.
    flops, bytes : int
        Counted floating-point operations, and bytes of weights and cache read and written, drafting and policies
        included.
    cache_bytes : int
        Bytes allocated for keys and values, or recurrent states, in the form in which they are stored, after the step,
        over all models.
    entropy : float or None
        Entropy of the next-token distribution before the step's first token [nats], where a technique asked for it.
    policy_flops, policy_bytes : int
        The parts of these that policies spent on work of their own, neither the model's nor a drafter's: votes, scores,
        routers, exit heads.
    policy_seconds : float
        Wall clock of that work, as far as policies say [s].
    nodes : tuple of (int, int, bool, float or None)
        For every drafted token: its id, the place of its parent (-1 for the last accepted token), whether it was kept,
        and the chance that the drafter gave it of being kept after its parent, None where it has no view.
    logprobs : tuple of (tuple of int, tuple of float), or None
        Where asked for: for every token of ``tokens`` the most probable tokens of the distribution that it was chosen
        from, and their log-probabilities [nats]; see :func:`workbench.engine.logprobs.top_logprobs`.
    logits : Tensor [tokens, vocabulary] or None
        Where asked for: the logits that every token of ``tokens`` was chosen from, after the ``logits`` policies and
        before temperature, top-k and top-p; on the CPU, in the model's dtype, or in float32 where such a policy acts.
    """

    index: int
    phase: str
    tokens: tuple[int, ...]
    drafted: int
    accepted: int
    layers: tuple[int, ...]
    keys_read: tuple[float, ...]
    keys_kept: tuple[int, ...]
    experts: tuple[int, ...]
    model: str
    forwards: int
    seconds: float
    draft_seconds: float
    flops: int
    bytes: int
    cache_bytes: int
    entropy: float | None = None
    verify_seconds: float = 0.0
    nodes: tuple[tuple[int, int, bool, float | None], ...] = ()
    policy_flops: int = 0
    policy_bytes: int = 0
    policy_seconds: float = 0.0
    logprobs: tuple[TokenLogprobs, ...] | None = None
    logits: Tensor | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        drafted = f", {self.accepted} of {self.drafted} drafted ones accepted" if self.drafted else ""
        return (
            f"<Step {self.index}, {self.phase}: tokens {self.tokens}{drafted}; {len(self.layers)} layers, "
            f"{1e3 * self.seconds:.3g} ms on {self.model}>"
        )

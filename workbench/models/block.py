"""One decoder block as the few steps that the engine, the techniques and the probes share.

``enter`` gives queries, keys and values from the residual stream; attention itself is the engine's; ``leave`` adds both
sublayers back to the residual stream. Every supported family runs through these same steps. A block whose mixer is
recurrent has ``advance`` in place of ``enter``, and ``add`` in place of ``leave``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from workbench.models.activation import Activation, ClampedSwiglu
from workbench.models.attention import Scoring
from workbench.models.experts import Expert, Router, SharedExpert, apply_experts
from workbench.models.mixers import RecurrentState
from workbench.models.neurons import some_neurons, some_rows
from workbench.models.norm import Norm
from workbench.models.projection import LinearMap
from workbench.models.rotate import Rope

Watch = Callable[[str, Tensor], None]


class Choice(Protocol):
    """Who decides what runs of a block's MLP; ``x`` [rows, width] is the residual stream that it reads."""

    @property
    def own(self) -> bool:
        """Whether the experts that it fetches are the router's own."""

    def experts(self, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and indices of a sparse block's experts, each [rows, any], from router logits [rows, experts]; see
        :func:`workbench.models.experts.apply_experts`."""

    def fetch(self, expert: int) -> Expert:
        """One of the experts that were chosen."""

    def neurons(self, x: Tensor) -> Tensor | None:
        """Of a dense block, see :func:`workbench.models.neurons.some_neurons`; None for all.

        A choice may also have ``stand_in(x)``, asked before that: see :func:`workbench.models.neurons.some_rows`; None
        for all rows.
        """


@dataclass
class Block:
    """The steps of one decoder block.

    Attributes
    ----------
    index : int
        Layer number, from 0.
    mixer : Attention or RecurrentMixer
        What mixes tokens. Of an attention, its sizes, ``scoring``, ``window`` and projections can be read here too.
    parallel : bool
        Whether the MLP reads the same residual stream as the attention.
    gated : bool
        Whether the MLP multiplies the activated first half of ``up`` with its second.
    attention_norm, attention_post_norm : Norm or None
        Before the mixer, and behind it.
    mlp_norm, mlp_post_norm : Norm or None
    up, down : LinearMap or None
        The MLP of a dense block. Without them and without a router the block has no MLP, see
        :func:`workbench.models.removed.without`.
    router : Router or None
        Of a sparse block, with its experts.
    activation : callable
    shared : SharedExpert or None
    residual_multiplier : float
        What is multiplied with whatever a sublayer adds to the residual stream.
    """

    index: int
    mixer: Any  # Attention or RecurrentMixer: ``mixer.recurrent`` says which
    parallel: bool
    gated: bool
    attention_norm: Norm | None
    attention_post_norm: Norm | None
    mlp_norm: Norm | None
    mlp_post_norm: Norm | None
    up: LinearMap | None
    down: LinearMap | None
    router: Router | None
    activation: Activation | ClampedSwiglu
    shared: SharedExpert | None = None
    residual_multiplier: float = 1.0

    @property
    def has_mlp(self) -> bool:
        return self.up is not None or self.router is not None

    @property
    def has_mixer(self) -> bool:
        return getattr(self.mixer, "mixes", True)

    @property
    def removed(self) -> bool:
        """Whether it adds nothing to the residual stream."""
        return not self.has_mlp and not self.has_mixer

    @property
    def heads(self) -> int:
        return self.mixer.heads

    @property
    def kv_heads(self) -> int:
        return self.mixer.kv_heads

    @property
    def head_dim(self) -> int:
        return self.mixer.head_dim

    @property
    def scoring(self) -> Scoring:
        """What makes attention weights of query-key products."""
        return self.mixer.scoring

    @property
    def scale(self) -> float:
        """What query-key products are multiplied by."""
        return self.mixer.scoring.scale

    @property
    def window(self) -> int | None:
        """Sliding window in tokens, the query's own included."""
        return self.mixer.window

    @property
    def rope_kind(self) -> str | None:
        """Which of the model's rotary tables this layer reads."""
        return self.mixer.rope_kind

    @property
    def query_key_value(self) -> LinearMap:
        return self.mixer.query_key_value

    @property
    def attention_output(self) -> LinearMap:
        return self.mixer.attention_output

    def enter(self, x: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a residual stream.

        Parameters
        ----------
        x : Tensor [batch, tokens, width]
            Residual stream before the block.
        rope : (cosine, signed sine), each [tokens, 1, rotary_dim], or None
            As :meth:`workbench.models.anatomy.Anatomy.rope` gives them.

        Returns
        -------
        queries : Tensor [batch, heads, tokens, head_dim]
        keys, values : Tensor [batch, kv_heads, tokens, head_dim]
            Queries and keys are rotated to their positions.
        """
        return self.mixer.enter(x if self.attention_norm is None else self.attention_norm(x), rope)

    def queries(self, x: Tensor, rope: Rope | None) -> Tensor:
        """The queries of :meth:`enter` alone: keys and values are not computed."""
        return self.mixer.queries(x if self.attention_norm is None else self.attention_norm(x), rope)

    def advance(self, x: Tensor, state: RecurrentState) -> Tensor:
        """What a recurrent mixer adds to the residual stream ``x`` [batch, tokens, width]; it leaves ``state`` as it is
        after the last token."""
        normed = x if self.attention_norm is None else self.attention_norm(x)
        return self.added(self.mixer.advance(normed, state), self.attention_post_norm)

    def attention_sublayer(self, attended: Tensor) -> Tensor:
        """What the attention adds to the residual stream.

        Parameters
        ----------
        attended : Tensor [batch, heads, tokens, head_dim]
            Weighted values.

        Returns
        -------
        Tensor [batch, tokens, width]
        """
        return self.added(self.mixer.leave(attended), self.attention_post_norm)

    def mlp_sublayer(self, x: Tensor, watch: Watch | None = None, choose: Choice | None = None) -> Tensor:
        """What the MLP (or the chosen experts) adds to the residual stream ``x`` [batch, tokens, width].

        ``watch("router_logits", logits [batch * tokens, experts])`` is told what the router said; ``choose`` decides
        what runs, by default all neurons of a dense block, and the router's own choice of experts.
        """
        stand_in = None if self.router is not None else getattr(choose, "stand_in", None)
        if stand_in is not None and (other := stand_in(x.reshape(-1, x.shape[-1]))) is not None:
            return some_rows(self, x, *other, choose)
        normed = x if self.mlp_norm is None else self.mlp_norm(x)
        if self.router is not None:
            out = self._experts(x, normed, watch, choose)
        elif choose is not None and (chosen := choose.neurons(x.reshape(-1, x.shape[-1]))) is not None:
            return some_neurons(self, normed, chosen)
        else:
            out = self.down(self.activation(self.up(normed), self.gated))
        return self.added(out, self.mlp_post_norm)

    def added(self, out: Tensor, norm: Norm | None) -> Tensor:
        """What is added to the residual stream of what a sublayer gave."""
        out = out if norm is None else norm(out)
        return out if self.residual_multiplier == 1 else out * self.residual_multiplier

    def leave(self, x: Tensor, attended: Tensor, watch: Watch | None = None, choose: Choice | None = None) -> Tensor:
        """Residual stream after the block, from the one before it and the weighted values.

        ``watch`` also sees ``attention_output`` and ``mlp_output``, each [batch, tokens, width].
        """
        return self.add(x, self.attention_sublayer(attended), watch, choose)

    def add(self, x: Tensor, mixed: Tensor, watch: Watch | None = None, choose: Choice | None = None) -> Tensor:
        """The same from what the mixer adds, ``mixed`` [batch, tokens, width]; ``attention_output`` is then that."""
        middle = x + mixed
        if watch is not None:
            watch("attention_output", mixed)
        if not self.has_mlp:
            return middle
        mlp = self.mlp_sublayer(x if self.parallel else middle, watch, choose)
        if watch is not None:
            watch("mlp_output", mlp)
        return middle + mlp

    def route(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The model's own choice of experts: weights and indices, each [tokens, chosen], from logits."""
        weights, indices = logits.float().softmax(-1).topk(self.router.chosen, -1)
        if self.router.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        return weights, indices

    def flops(self, rows: int) -> int:
        """Operations of so many rows, a multiply-add counted as two: those of all linear maps that every row goes
        through. Attention itself, which hangs on the keys, and the experts that a router chooses are not among them,
        nor are norms and activations."""
        return sum(part.flops(rows) for part in self._counted())

    def bytes(self, rows: int) -> int:
        """Bytes of the weights of the same maps, as they are kept, that so many rows read."""
        return sum(part.bytes(rows) for part in self._counted())

    def _counted(self) -> Iterator[Any]:
        yield self.mixer
        if self.router is not None:
            yield self.router.scores
        elif self.up is not None:
            yield self.up
            yield self.down
        if self.shared is not None:
            yield self.shared

    def _experts(self, x: Tensor, normed: Tensor, watch: Watch | None, choose: Choice | None) -> Tensor:
        rows = normed.reshape(-1, normed.shape[-1])
        router = self.router
        logits = router.scores(rows)
        if watch is not None:
            watch("router_logits", logits)
        if choose is None:
            weights, indices = self.route(logits)
        else:
            weights, indices = choose.experts(x.reshape(-1, x.shape[-1]), logits)
        fetch, own = (None, True) if choose is None else (choose.fetch, choose.own)
        out = apply_experts(rows, weights, indices, router, self.shared, self.activation, fetch, own)
        return out.view_as(normed)

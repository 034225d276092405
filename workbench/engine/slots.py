"""The slots of the decode loop: what a technique may decide, and what the loop asks of it.

A technique is settings; :meth:`workbench.engine.run.TechniqueLike.start` turns it into a *policy*, an object with the
methods of the slots that it claims, which lives for one run. The loop calls nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from workbench.engine.draft import Draft, Verification
from workbench.engine.sampling import Sampler
from workbench.errors import SettingError

if TYPE_CHECKING:
    from workbench.engine.passes import Pass
    from workbench.engine.state import KeyValueCache, KeyValueState
    from workbench.engine.visibility import Visible
    from workbench.models import Block, Model
    from workbench.models.attention import Scoring
    from workbench.models.experts import Expert

SLOTS: dict[str, str] = {
    "weights": "stack",
    "context": "one",
    "depth": "one",
    "mlp": "one",
    "experts": "one",
    "prefill_attention": "one",
    "attention": "one",
    "evict": "one",
    "store": "one",
    "draft": "one",
    "draft_length": "one",
    "accept": "one",
    "logits": "stack",
    "switch": "one",
    "stop": "one",
}
"""Slot -> whether it holds one technique or a stack of them, applied in order."""

_RENAMED = {"cache": "'evict' (what stays) and 'store' (form and place)"}


def check_slots(slots: Iterable[str], who: str = "") -> None:
    """Refuse a slot that the loop does not have.

    Raises
    ------
    SettingError
        Naming ``who`` claims it, and what it is called now or which there are.
    """
    for slot in slots:
        if slot not in SLOTS:
            renamed = (
                f"is now {_RENAMED[slot]}" if slot in _RENAMED else f"does not exist; there are {', '.join(SLOTS)}"
            )
            raise SettingError(f"{who}{': ' if who else ''}the slot {slot!r} {renamed}")


class WeightsPolicy(Protocol):
    """Slot ``weights``."""

    def weights(self, model: Model) -> AbstractContextManager[None]:
        """Changes the weights on entry and puts them back on exit."""


class ContextPolicy(Protocol):
    """Slot ``context``."""

    def select(self, layer: int, x: Tensor, positions: Tensor) -> Tensor | None:
        """Before ``layer`` of the prefill: places (int Tensor, increasing, the last one included) of the tokens that
        go on, or None for all. ``x`` is [1, tokens, width]. Of a prompt with a context and a question it is asked for
        the context alone; the question is computed in full."""


class DepthPolicy(Protocol):
    """Slot ``depth``."""

    def next_layer(self, layer: int, x: Tensor) -> int | None:
        """The layer to run after ``layer`` (-1 at the start), or None to go to the unembedding; ``x`` is [1, rows,
        width]."""


class OpenedPolicy(DepthPolicy, Protocol):
    """Slot ``depth``, of a policy that also acts on the pass itself. While it is asked for the next layer the pass
    stands before the block that would come next: the policy may look at it, drop, revive, join or postpone rows, and
    fill what an exit leaves out."""

    def opened(self, opened_pass: Pass) -> None:
        """A pass begins."""


class StretchPolicy(DepthPolicy, Protocol):
    """Slot ``depth``, of a policy that leaves stretches of layers alone: they run in order, on a CPU in one call."""

    def stretch(self, layer: int) -> int:
        """The first layer from ``layer`` on after which it decides; it may be asked after those before it all the
        same, and then names the next one."""


class BorrowingPolicy(DepthPolicy, Protocol):
    """Slot ``depth``, of a policy that lets some layers read the keys and values of others."""

    borrowed: Mapping[int, int]
    """Layer -> the layer before it whose entries its queries read; it computes and keeps none of its own."""


class MlpPolicy(Protocol):
    """Slot ``mlp``."""

    def neurons(self, block: Block, x: Tensor) -> Tensor | None:
        """Which neurons of a dense block's MLP run, for the rows ``x`` [rows, width] of the residual stream that it
        reads (before its norm, ``block.mlp_norm``): an int Tensor [chosen] for all rows, a bool Tensor [rows, neurons]
        for each its own, or None for all neurons. A row for which none is chosen leaves the sublayer out: nothing is
        added to it. Of a pass with several rows only a choice for each row by itself gives what each alone would,
        and bit for bit where products do: ``up`` is then read for the neurons that any row runs, ``down`` whole."""


class StandInPolicy(MlpPolicy, Protocol):
    """Slot ``mlp``, of a policy that has something else in the place of the MLP for some rows: a smaller one, say."""

    def stand_in(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """For the rows ``x`` [rows, width], as of :meth:`neurons`: the places of those that go through the block's own
        MLP, an increasing int Tensor [own], and what is added to the residual stream for the others, [rows, width] in
        its dtype, 0 for nothing. None is all rows through the MLP. What is given must hang on each row alone. Weights
        of an MLP that no row goes through are not read; what the policy computes is its own to count. ``neurons`` is
        asked afterwards, of the rows that go through."""


class ExpertsPolicy(Protocol):
    """Slot ``experts``."""

    def choose_experts(self, block: Block, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and indices, each [tokens, any], from router logits [tokens, experts]; ``x`` [tokens, width] are the
        rows of the residual stream that they came from, before the block's ``mlp_norm``. A row that has fewer
        experts than others is filled up with the index ``len(block.router.experts)``: none, neither run nor counted."""


class ExpertPlacesPolicy(ExpertsPolicy, Protocol):
    """Slot ``experts``, of a policy that also says where experts live: in host memory, say, or in four bits."""

    def fetch_expert(self, block: Block, expert: int) -> Expert:
        """One expert that was chosen, ready to multiply rows on the model's device. The model's own, of
        ``block.router.experts``, is not asked for. It is counted at what its maps say they cost, as they are stored
        (``flops``, ``bytes``); what was moved is the policy's to count."""


class PrefillAttentionPolicy(Protocol):
    """Slot ``prefill_attention``."""

    def attend_prompt(
        self, layer: int, query: Tensor, cache: KeyValueState, visible: Visible, scoring: Scoring
    ) -> tuple[Tensor, float] | None:
        """As :meth:`AttentionPolicy.attend`, for the passes that read the prompt, its question included."""


class AttentionPolicy(Protocol):
    """Slot ``attention``."""

    def attend(
        self, layer: int, query: Tensor, cache: KeyValueState, visible: Visible, scoring: Scoring
    ) -> tuple[Tensor, float] | None:
        """Weighted values [1, heads, tokens, head_dim] and the number of keys a query read on average; None leaves the
        layer to the engine. The new keys are already in ``cache``; ``visible.mask()`` [tokens, keys] or [kv_heads,
        tokens, keys] is True where a key is visible, None where all are, and is made when it is asked for; ``scoring``
        is what makes the layer's weights of products. It is asked in the passes that read what was written: decode
        steps, verifications, and what a second model reads to catch up; those of the prompt are asked of the slot
        ``prefill_attention``."""


class EvictPolicy(Protocol):
    """Slot ``evict``."""

    def prefilled(self, layer: int, query: Tensor, cache: KeyValueState) -> None:
        """After the attention of ``layer`` over the last chunk of the prompt; ``query`` is [1, heads, chunk, head_dim].
        What is evicted here never stands beside the other layers' full caches. Of a prompt with a context and a
        question this is the end of the context: the question is read after what is left, and its keys stay. A run that
        goes on from another's state reads its prompt as such a question."""

    def settled(self, cache: KeyValueCache) -> None:
        """After a step, when rejected drafts are gone from the cache; also between context and question."""


class StorePolicy(Protocol):
    """Slot ``store``: in what form and where keys and values are kept; what stays is the slot ``evict``'s."""

    def state(self, layer: int, block: Block, reserve: int) -> KeyValueState:
        """The empty state of a layer, with room for ``reserve`` entries beyond those that come first. Asked whenever a
        cache is made; a run that goes on from another's state takes its entries over into what is made here."""


class DraftPolicy(Protocol):
    """Slot ``draft``."""

    def propose(self, tokens: Sequence[int], limit: int) -> Draft:
        """A draft of at most ``limit`` tokens depth after ``tokens`` (prompt and output so far)."""

    def verified(self, verification: Verification) -> None:
        """What came of the last draft; also called after the prefill, with an empty one."""


class DraftLengthPolicy(Protocol):
    """Slot ``draft_length``.

    Notes
    -----
    Acceptance keeps the model's distribution only where each drafted token that it sees is distributed as the draft
    says, given all that decided that it is there. So nothing may decide by tokens that were drawn later, nor by the
    shape that they gave the finished draft. A limit is set before any is drawn, and the loop asks no one to prune a
    draft made by chance (:attr:`Draft.by_chance`). A draft made without chance is a function of what came before the
    step, and may be cut in any way.
    """

    def limit(self, tokens: Sequence[int], limit: int) -> int:
        """Most tokens depth to be drafted after ``tokens``, at most ``limit``; 0 spares the drafter the work."""

    def prune(self, draft: Draft) -> Draft:
        """The part of a draft that is worth verifying, see :meth:`Draft.pruned`; of drafts made without chance."""

    def measured(self, verification: Verification, draft_seconds: float, verify_seconds: float) -> None:
        """What came of the step, and how long drafting and the forward took [s]."""


class AcceptPolicy(Protocol):
    """Slot ``accept``."""

    def accept(self, draft: Draft, logits: Tensor, sampler: Sampler) -> tuple[list[int], int]:
        """Nodes kept, from the first on, and the token after them; ``logits`` is [1 + nodes, vocabulary]."""


class LogitsPolicy(Protocol):
    """Slot ``logits``."""

    def adjust(self, tokens: Sequence[int], logits: Tensor) -> Tensor:
        """Next-token logits [vocabulary] after ``tokens``."""


class SwitchPolicy(Protocol):
    """Slot ``switch``."""

    models: tuple[Model, ...]

    def choose_model(self, entropies: Sequence[float], verification: Verification | None) -> int | None:
        """Place in ``models`` of the one that takes the next step, or None to stay with the last (at first the one in
        front). Told for each token of the last step the entropy [nats] of the distribution that it came from, and what
        came of that step's draft; at the prefill no entropies, and None."""


class StopPolicy(Protocol):
    """Slot ``stop``."""

    def stop(self, generated: Sequence[int]) -> bool:
        """Whether to end after these tokens."""


PROTOCOLS: dict[str, type] = {
    "weights": WeightsPolicy,
    "context": ContextPolicy,
    "depth": DepthPolicy,
    "mlp": MlpPolicy,
    "experts": ExpertsPolicy,
    "prefill_attention": PrefillAttentionPolicy,
    "attention": AttentionPolicy,
    "evict": EvictPolicy,
    "store": StorePolicy,
    "draft": DraftPolicy,
    "draft_length": DraftLengthPolicy,
    "accept": AcceptPolicy,
    "logits": LogitsPolicy,
    "switch": SwitchPolicy,
    "stop": StopPolicy,
}
"""Slot -> what a policy of it has."""

OPTIONAL: dict[str, tuple[type, ...]] = {
    "depth": (OpenedPolicy, StretchPolicy, BorrowingPolicy),
    "mlp": (StandInPolicy,),
    "experts": (ExpertPlacesPolicy,),
}
"""Slot -> what a policy of it may have beside that."""

"""What a technique is told when a run starts, and what the engine needs of a technique."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from workbench.engine.composition import Named, name_of, part_of
from workbench.engine.ledger import Ledger
from workbench.engine.policy_check import check_policy
from workbench.engine.sampling import Sampler
from workbench.errors import SettingError

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.models import Model


class TechniqueLike(Protocol):
    """What the loop needs of a technique; :class:`workbench.techniques.Technique` is the one to inherit from."""

    @property
    def slots(self) -> tuple[str, ...]: ...

    @property
    def stepwise(self) -> bool: ...

    @property
    def excludes(self) -> tuple[str, ...]: ...

    def start(self, run: Run) -> Any:
        """The policy of one run."""


@dataclass(frozen=True)
class Run:
    """What a technique is told when a run starts.

    Attributes
    ----------
    model : Model
        The model that the policy will serve.
    prompt : tuple of int
        Negative ones are placeholders, see ``embeddings``.
    max_new_tokens : int
    sampler : Sampler
        How the next token is chosen.
    seed : int
    stepwise : bool
        Whether a technique of the recipe acts between tokens, so that the text may hang on how many a step verifies.
    within : tuple of str
        Names of the techniques that the one that is started is a part of.
    named : sequence of Named
        Techniques that settings of the recipe's name, as it has read them.
    parts : list of object
        Policies that were started as parts of others, see :meth:`start_part`.
    ledger : Ledger
        Where a policy writes down what it computes itself: that is part of the step's FLOPs, bytes and seconds.
    embeddings : Tensor [rows, width] or None
        Rows of the prompt that have no token: row k stands where the prompt has ``-1 - k``. Techniques of the slots
        that read tokens only meet them if they say ``segments = True``.
    """

    model: Model
    prompt: tuple[int, ...]
    max_new_tokens: int
    sampler: Sampler
    seed: int
    stepwise: bool = False
    within: tuple[str, ...] = field(default=(), kw_only=True)
    named: Sequence[Named] = field(default=(), repr=False, compare=False, kw_only=True)
    parts: list[Any] = field(default_factory=list, repr=False, compare=False, kw_only=True)
    ledger: Ledger = field(default_factory=Ledger, compare=False, repr=False)
    embeddings: Tensor | None = field(default=None, compare=False, repr=False)

    def start_part(self, owner: TechniqueLike, setting: str) -> Any | None:
        """The policy of the technique that a setting of ``owner`` names, for ``owner``'s own to ask; None if there is
        none. What its drafts cost is to be counted in those made of them; its ``close`` is called at the end.

        Raises
        ------
        SettingError
            See :func:`workbench.engine.composition.part_of`; or if the settings of the part do not fit the model.
        """
        known = (each.part for each in self.named if each.owner is owner and each.setting == setting)
        technique = next(known, None) or part_of(owner, setting, self.within)
        if technique is None:
            return None
        policy = technique.start(replace(self, within=(*self.within, name_of(owner))))
        self.parts.append(policy)
        check_policy(technique, policy)
        return policy

    def check_positions(self, model: Model, read: int | None = None, what: str = "prompt") -> None:
        """Refuse a second model that knows too few positions to read ``read`` tokens of ``what`` (by default the
        prompt) and what is generated after them.

        Raises
        ------
        SettingError
        """
        read = len(self.prompt) if read is None else read
        if model.anatomy.positions < read + self.max_new_tokens - 1:
            raise SettingError(
                f"{model.name} knows {model.anatomy.positions:,} positions, too few for {read:,} {what} tokens and "
                f"{self.max_new_tokens:,} new ones"
            )

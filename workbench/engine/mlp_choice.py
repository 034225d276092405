"""What runs of one block's MLP in one pass, as the policies of ``mlp`` and ``experts`` decide, and what that spares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.errors import SettingError
from workbench.models import Block
from workbench.models.experts import Expert

if TYPE_CHECKING:
    from workbench.engine.slots import ExpertsPolicy, MlpPolicy


class MlpChoice:
    """A :class:`workbench.models.block.Choice` that counts.

    Parameters
    ----------
    block : Block
    policy : object, optional
        Of the slot ``experts`` for a sparse block, of ``mlp`` for a dense one; None runs what the model itself would.

    Attributes
    ----------
    experts_per_token, experts_run : int
        Experts that a row went through at most, and how many different ones that were; 0 of a dense block.
    spared_flops, spared_bytes : int
        Counted operations of a dense block's MLP that were left out, and bytes of its weights that were not read; of
        a sparse one what rows with fewer experts did not run, and of experts that were fetched what the model's own
        would have cost more than these.
    """

    experts_per_token = experts_run = spared_flops = spared_bytes = 0

    def __init__(self, block: Block, policy: Any = None) -> None:
        self._block, self._policy = block, policy
        self._fetch = getattr(policy, "fetch_expert", None)
        self._rows: dict[int, int] = {}
        self._asked = 0
        if hasattr(policy, "stand_in"):
            self.stand_in = self._stand_in

    @property
    def own(self) -> bool:
        """See :class:`workbench.models.block.Choice`."""
        return self._fetch is None

    def experts(self, x: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`workbench.engine.slots.ExpertsPolicy.choose_experts`."""
        block, policy = self._block, self._policy
        weights, indices = block.route(logits) if policy is None else policy.choose_experts(block, x, logits)
        self.experts_run, self.experts_per_token = 0, indices.shape[1]
        if policy is not None:
            none = int((indices == len(block.router.experts)).sum())
            self.spared_flops += none * block.router.experts[0].flops(1)
        if self._fetch is not None:
            experts, rows = indices.unique(return_counts=True)
            self._asked, self._rows = len(x), dict(zip(experts.tolist(), rows.tolist()))
        return weights, indices

    def fetch(self, expert: int) -> Expert:
        """See :meth:`workbench.engine.slots.ExpertPlacesPolicy.fetch_expert`."""
        self.experts_run += 1
        if self._fetch is None:
            return self._block.router.experts[expert]
        fetched, counted, rows = self._fetch(self._block, expert), self._block.router.experts[0], self._rows[expert]
        # A block's first expert stands for all in its cost, see :func:`workbench.engine.block_cost.block_cost`.
        self.spared_flops += rows * counted.flops(1) - fetched.flops(rows)
        self.spared_bytes += counted.bytes(self._asked) - fetched.bytes(rows)
        return fetched

    def neurons(self, x: Tensor) -> Tensor | None:
        """See :meth:`workbench.engine.slots.MlpPolicy.neurons`."""
        chosen = self._policy.neurons(self._block, x)
        if chosen is not None:
            self._spare(chosen, len(x))
        return chosen

    def _stand_in(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """See :meth:`workbench.engine.slots.StandInPolicy.stand_in`."""
        found = self._policy.stand_in(self._block, x)
        if found is None:
            return None
        own, added = found
        if own.dim() != 1 or own.is_floating_point() or own.dtype == torch.bool or len(own) > len(x):
            given = f"{str(own.dtype).removeprefix('torch.')} {list(own.shape)}"
            raise SettingError(f"{self._who} gave places of rows as {given}: give int [own], each of {len(x)} once")
        if added.shape != x.shape or added.dtype != x.dtype:
            raise SettingError(
                f"{self._who} gave {added.dtype} {list(added.shape)} to be added to {x.dtype} {list(x.shape)}"
            )
        for linear in (self._block.up, self._block.down):
            self.spared_flops += linear.flops(len(x)) - linear.flops(len(own))
            self.spared_bytes += linear.bytes(len(x)) - (linear.bytes(len(own)) if len(own) else 0)
        return found

    @property
    def _who(self) -> str:
        return f"{type(self._policy).__name__} of the slot 'mlp'"

    def _spare(self, chosen: Tensor, rows: int) -> None:
        up, down = self._block.up, self._block.down
        neurons = down.weight.shape[1]
        if chosen.dtype == torch.bool and chosen.shape != (rows, neurons):
            given = tuple(chosen.shape)
            raise SettingError(f"{self._who} chose with a mask of {given}, not of {(rows, neurons)}")
        if chosen.dtype != torch.bool:
            self._check_numbers(chosen, neurons)
        if chosen.dtype == torch.bool:
            # Rows that run at all multiply what any of them runs of ``up``, and ``down`` whole.
            running, read = torch.stack((chosen.any(1).sum(), chosen.any(0).sum())).tolist()
            whole = neurons if running else 0
        else:
            running, read, whole = rows, len(chosen), len(chosen)
        self.spared_flops += up.flops(1) * (rows * neurons - running * read) // neurons
        self.spared_flops += down.flops(1) * (rows * neurons - running * whole) // neurons
        self.spared_bytes += up.bytes(rows) * (neurons - read) // neurons
        self.spared_bytes += down.bytes(rows) * (neurons - whole) // neurons

    def _check_numbers(self, chosen: Tensor, neurons: int) -> None:
        if chosen.dim() == 1 and not chosen.is_floating_point():
            inside = not len(chosen) or (chosen.min() >= 0 and chosen.max() < neurons)
            # One that is named twice would be added twice.
            if inside and len(chosen.unique()) == len(chosen):
                return
        given = f"{str(chosen.dtype).removeprefix('torch.')} {list(chosen.shape)}"
        raise SettingError(
            f"{self._who} chose neurons with {given}: give different numbers among "
            f"0 … {neurons - 1} as int [chosen], or a bool mask"
        )


def choice_of(block: Block, mlp: MlpPolicy | None, experts: ExpertsPolicy | None) -> MlpChoice | None:
    """What decides of a block's MLP; None for a dense one that runs whole."""
    if block.router is not None:
        return MlpChoice(block, experts)
    return None if mlp is None else MlpChoice(block, mlp)

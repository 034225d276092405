"""Entries at places of a state, and several of them made one."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workbench.models.device import numbers

if TYPE_CHECKING:
    from workbench.engine.state.entries import Entries


def at(entries: Tensor, index: Tensor) -> Tensor:
    """Of ``entries`` [batch, kv_heads, n, …] those at ``index`` [1 or kv_heads, chosen]."""
    index = index.to(entries.device)
    if index.shape[0] == 1:
        return entries.index_select(2, index[0])
    batch, heads, _, *widths = entries.shape
    index = index.view(1, heads, -1, *(1 for _ in widths))
    return entries.gather(2, index.expand(batch, heads, -1, *widths))


def chosen(marks: Tensor, index: Tensor) -> Tensor:
    """Of ``marks`` [1 or kv_heads, n] those at ``index`` [chosen] or [kv_heads, chosen]."""
    return marks.index_select(1, index) if index.dim() == 1 else marks.expand(len(index), -1).gather(1, index)


def renumbered(rows: Iterable[int], kept: Sequence[int]) -> dict[int, int]:
    """Number -> new number, increasing, of the rows of a pass of which ``kept`` (increasing) stay; rows below 0, of
    earlier text, stay what they are."""
    return {row: row for row in sorted(set(rows)) if row < 0} | {row: place for place, row in enumerate(kept)}


def in_order(rows: Sequence[int]) -> int:
    """How many at the front are 0, 1, 2, …"""
    return next((place for place, row in enumerate(rows) if row != place), len(rows))


@functools.lru_cache(maxsize=4)
def settled(
    visits: tuple[tuple[int, ...], ...], kept: tuple[int, ...], device: torch.device
) -> tuple[int, int | Tensor, tuple[tuple[int, ...], ...]]:
    """What keeping the rows ``kept`` (increasing) of a pass does to the entries that its visits to a layer added; most
    layers of a pass were visited alike.

    Returns
    -------
    int, int or Tensor, tuple
        Entries added; how many of them stay, where those are the first, or else int Tensor [staying], their places
        among them; and the visits less what is dropped, rows numbered anew. Rows below 0, of earlier text, stay.
    """
    rows = [row for each in visits for row in each]
    new = renumbered(rows, kept)
    places = [place for place, row in enumerate(rows) if row in new]
    first = places == list(range(len(places)))
    remaining = tuple(tuple(new[row] for row in each if row in new) for each in visits)
    return len(rows), len(places) if first else numbers(places, device), remaining


def merge(state: Entries, groups: Tensor, weights: Tensor | None) -> None:
    """See :meth:`workbench.engine.state.Entries.merge`: the newest entry of a group stays and is rewritten."""
    heads, length = state.heads, state.length
    groups = groups.expand(heads, length)
    groups = groups if state.valid is None else groups.masked_fill(~state.valid, -1)
    weights = torch.ones_like(groups) if weights is None else weights.expand(heads, length)
    count = int(groups.max()) + 1
    # One more group takes what is dropped.
    into = groups.where(groups >= 0, count)
    members = into.new_zeros(heads, count + 1).scatter_add_(1, into, torch.ones_like(into))[:, :count]
    positions = state.positions.expand(heads, length)
    newest = positions.new_full((heads, count + 1), -1).scatter_reduce_(1, into, positions, "amax")
    stays = (positions == newest.gather(1, into)) & (groups >= 0)
    places = into.new_zeros(heads, count + 1)
    places.scatter_(1, into.where(stays, count), torch.arange(length, device=into.device).expand(heads, -1))
    means = [_means(entries, into, weights, count) for entries in (state.keys, state.values)]
    state.keep(places[:, :count], members > 0)
    several = int((members > 1).sum(1).max())
    if several:
        # A head with fewer such groups than another writes some of its other entries as they are.
        changed = (members > 1).int().topk(several, 1).indices
        is_mean = members.gather(1, changed)[None, :, :, None] > 1
        own = state.gather(changed)
        state.rewrite(changed, *(at(mean, changed).where(is_mean, each) for mean, each in zip(means, own)))


def _means(entries: Tensor, into: Tensor, weights: Tensor, count: int) -> Tensor:
    """Weighted means [batch, kv_heads, count, width] of ``entries`` by the group ``into`` [kv_heads, n] they are in."""
    batch, _, _, width = entries.shape
    weights = weights.to(entries.dtype if entries.dtype == torch.float64 else torch.float32)
    sums = weights.new_zeros(batch, len(into), count + 1, width)
    sums.scatter_add_(2, into[None, :, :, None].expand(entries.shape), entries * weights[None, :, :, None])
    total = weights.new_zeros(len(into), count + 1).scatter_add_(1, into, weights)
    return (sums / total[None, :, :, None])[:, :, :count].to(entries.dtype)

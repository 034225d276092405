"""What every probe is: a frozen dataclass that names the sites it reads and reduces them while they pass."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from workbench import trace
from workbench.models import Model
from workbench.models.model import evenly
from workbench.registry import PROBES

register = PROBES.register


class Reader(abc.ABC):
    """One probe riding one forward pass. It keeps reductions, never a full activation, and changes nothing."""

    @abc.abstractmethod
    def see(self, site: str, layer: int, value: Any) -> None:
        """One site of one layer passes.

        Parameters
        ----------
        site : str
            One of the probe's ``sites``.
        layer : int
            -1 for ``embedding``.
        value : Tensor or tuple of Tensor
            ``embedding``, ``residual``, ``attention_output``, ``mlp_output``: [1, tokens, width];
            ``query_key_value``: queries [1, heads, tokens, head_dim], keys and values [1, kv_heads, tokens, head_dim],
            rotated; ``router_logits``: [tokens, experts]. Must not be written to, and is only valid during the call.
        """

    @abc.abstractmethod
    def finish(self) -> xr.Dataset:
        """What was seen, with ``units`` and ``long_name`` on every variable."""


class Probe(abc.ABC):
    """Base of every probe.

    Attributes
    ----------
    sites : tuple of str
        Of :data:`workbench.models.SITES`.
    paper : str
        Where the measure comes from.
    name : str
        Name in the registry, the class name in snake case.
    """

    sites: ClassVar[tuple[str, ...]]
    paper: ClassVar[str]
    name: ClassVar[str]

    @abc.abstractmethod
    def start(self, model: Model, tokens: Tensor) -> Reader:
        """A reader for one forward pass over ``tokens`` (int Tensor [tokens]).

        Raises
        ------
        SettingError
            If the model has no such sites, or the settings do not fit it.
        """

    @classmethod
    def examples(cls) -> tuple[Probe, ...]:
        """Settings that tests run over; they suit the tiny models."""
        return (cls(),)


def sample(tokens: int, wanted: int | None) -> Tensor:
    """int Tensor [positions]: ``wanted`` of ``tokens`` positions, evenly spaced, first and last among them.

    All of them when ``wanted`` is None or not fewer; a single one is the last, which has the most to look back on.
    """
    if wanted == 1:
        return torch.tensor([tokens - 1])
    return torch.tensor(evenly(tokens, min(tokens, wanted or tokens)))


def contribution(added: Tensor, stream: Tensor) -> tuple[float, float]:
    """Mean over tokens of ``|added| / |stream|`` and of the cosine of the two, each [tokens, width]; a token whose
    stream is nothing, as some models embed their padding, counts as 0."""
    size, length = (rows.norm(dim=-1, dtype=torch.float32) for rows in (added, stream))
    product = torch.linalg.vecdot(added.float(), stream.float())
    return float(over(size, length).mean()), float(over(product, size * length).mean())


def over(size: Tensor, length: Tensor) -> Tensor:
    """``size / length``, and 0 where there is no length; both float32, of one shape."""
    return (size / length.clamp_min(torch.finfo(torch.float32).tiny)).where(length > 0, 0)


def axis(name: str, values: Any, units: str, long_name: str) -> dict[str, xr.Variable]:
    """A coordinate of a probe's dataset, with its unit and name."""
    return {name: trace.variable(name, values, units, long_name)}

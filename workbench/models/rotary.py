"""Rotary positions that were scaled: how many of them a model knows, and tables that hang on the length of the text.

Source
------
transformers' ``modeling_rope_utils``. LongRoPE: Ding et al., 2024, arXiv 2402.13753. Linear interpolation: Chen et al.,
2023, arXiv 2306.15595. YaRN, and dynamic NTK in its section on dynamic scaling: Peng et al., 2023, arXiv 2309.00071.

Of two kinds the frequencies hang on how long the text is. *Long-rope* has two sets of factors, one for texts of up to
the original positions and one for longer ones. *Dynamic NTK* has frequencies of its own for every length beyond them. A
key stays in the cache as it was rotated when it came, so a token's row is that of the length the text had then.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import UnsupportedModel
from workbench.models.rotate import Rope

_GROWING = ("dynamic", "longrope")
_FACTOR_TIMES_LENGTH = ("linear", "dynamic", "yarn")


def parameters(config: Any, kind: str) -> dict[str, Any]:
    """The rotary parameters of a kind of table: those of a layer type, or the model's only ones."""
    own = config.rope_parameters
    return own.get(kind, own)


def grows(config: Any, kind: str) -> bool:
    """Whether the frequencies of a kind of table hang on the length of the text."""
    return parameters(config, kind).get("rope_type", "default") in _GROWING


def original_positions(config: Any, kind: str) -> int:
    """Longest text that a growing kind of table reads with its unscaled frequencies, or its short factors.

    Raises
    ------
    UnsupportedModel
        If long-rope does not say.
    """
    scaling = parameters(config, kind)
    if scaling["rope_type"] != "longrope":
        return config.max_position_embeddings
    original = scaling.get("original_max_position_embeddings")
    if isinstance(original, bool) or not isinstance(original, int) or original < 1:
        raise UnsupportedModel(f"long-rope with original_max_position_embeddings={original!r} is not supported")
    return original


def usable_positions(config: Any, kinds: Iterable[str]) -> int:
    """Longest text that a model knows, scaling included.

    Parameters
    ----------
    config : transformers.PreTrainedConfig
    kinds : iterable of str
        Its kinds of rotary tables; none where positions are learned.

    Notes
    -----
    Linear, dynamic and YaRN scaling multiply the original positions, those that the scaling names or else
    ``max_position_embeddings``, by their factor; a configuration whose ``max_position_embeddings`` is the product
    already, or more, is left as it is, and so is long-rope's and Llama 3's, which always is. Of several tables the one
    that reaches least far counts.

    Raises
    ------
    UnsupportedModel
        If a factor is no finite number.
    """
    most = config.max_position_embeddings
    return min((_reach(parameters(config, kind), most) for kind in kinds), default=most)


def _reach(scaling: dict[str, Any], most: int) -> int:
    factor = scaling.get("factor")
    if scaling.get("rope_type") not in _FACTOR_TIMES_LENGTH or factor is None:
        return most
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
        raise UnsupportedModel(f"a rotary scaling by the factor {factor!r} is not supported: it must be a number")
    return max(most, int(factor * (scaling.get("original_max_position_embeddings") or most)))


def look_up(
    tables: dict[Any, Any],
    key: Any,
    positions: Tensor,
    device: torch.device,
    rows: Callable[[Tensor], Rope],
    below: int | None = None,
) -> Rope:
    """Rows for ``positions`` of the table kept under ``key``; ``rows`` computes it anew where it is too short.

    All positions are ``below`` that; by default they are looked at, for which the host waits.
    """
    needed = int(positions.max()) + 1 if below is None else below
    if key not in tables or tables[key][0].shape[0] < needed:
        tables[key] = rows(torch.arange(max(1024, 2 ** (needed - 1).bit_length()), device=device))
    cosine, sine = tables[key]
    return cosine[positions], sine[positions]


class GrowingTable:
    """Cosine and signed sine of one kind of table whose frequencies hang on the length of the text.

    Parameters
    ----------
    rotary : nn.Module
        The model's own; it is copied, since it remembers the lengths that it has seen.
    config : transformers.PreTrainedConfig
    kind : str
        A layer type, or ``all``.
    rows : callable
        ``rows(rotary, positions)``: the table's rows as that module computes them.
    device : torch.device

    Attributes
    ----------
    original : int
        Longest text that is read with the unscaled frequencies, or the short factors.
    longest : int or None
        Length from which on all texts are read alike; None where each has frequencies of its own.
    """

    def __init__(
        self, rotary: Any, config: Any, kind: str, rows: Callable[[nn.Module, Tensor], Rope], device: torch.device
    ) -> None:
        self._config, self._rows, self._device = config, rows, device
        self._layer_type = None if kind == "all" else kind
        self._type: str = parameters(config, kind)["rope_type"]
        self.original = original_positions(config, kind)
        self.longest: int | None = self.original + 1 if self._type == "longrope" else None
        self._rotary = copy.deepcopy(rotary)
        # The copy computes with the frequencies that it is given.
        types = self._rotary.rope_type
        self._rotary.rope_type = {**types, kind: "default"} if isinstance(types, dict) else "default"
        self._whole: dict[int, Rope] = {}

    def __call__(self, positions: Tensor, length: int | Tensor | None = None, below: int | None = None) -> Rope:
        """Rows for ``positions`` [tokens], each [tokens, 1, rotary_dim]; see
        :meth:`workbench.models.anatomy.Anatomy.rope`."""
        length = int(positions.max()) + 1 if length is None else length
        if isinstance(length, int):
            length = max(length, self.original)
            return self._of(positions, length if self.longest is None else min(length, self.longest), below)
        lengths = length.clamp(self.original, self.longest)
        first, *others = lengths.unique().tolist()
        cosine, sine = self._of(positions, first, below)
        for each in others:
            rows = lengths == each
            cosine[rows], sine[rows] = self._of(positions[rows], each, below)
        return cosine, sine

    def _of(self, positions: Tensor, length: int, below: int | None) -> Rope:
        """Rows of one length, which of long-rope is one of two: these are computed once and looked up."""
        if self.longest is None:
            return self._computed(length, positions)
        return look_up(self._whole, length, positions, self._device, functools.partial(self._computed, length), below)

    def _computed(self, length: int, positions: Tensor) -> Rope:
        """Rows as the model's module computes them with the frequencies of a length."""
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        # As a tensor, so that every sum is rounded as transformers rounds it.
        seq_len = torch.tensor(length, device=self._device) if length > self.original else None
        frequencies, _ = ROPE_INIT_FUNCTIONS[self._type](
            self._config, self._device, seq_len=seq_len, layer_type=self._layer_type
        )
        name = "inv_freq" if self._layer_type is None else f"{self._layer_type}_inv_freq"
        setattr(self._rotary, name, frequencies)
        return self._rows(self._rotary, positions)

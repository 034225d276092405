"""A second model of the same vocabulary, beside the one a run is about."""

from __future__ import annotations

import functools

import torch

from workbench.errors import SettingError
from workbench.models.load import Model, load


def companion(main: Model, name: str) -> Model:
    """The model that ``name`` means next to ``main``.

    Parameters
    ----------
    main : Model
    name : str
        ``/12``: 12 of the main model's own layers, evenly spread, sharing its weights; ``/0.5``: that share of them;
        otherwise anything :func:`workbench.models.load` takes, in the main model's dtype and on its device.

    Raises
    ------
    SettingError
        If the two do not share a vocabulary, or the cut is not possible.
    """
    if name.startswith("/"):
        try:
            share = float(name[1:])
        except ValueError:
            raise SettingError(f"{name!r} is no cut of a model: write /12 for layers or /0.5 for a share") from None
        return main.shallow(round(share * main.layers) if "." in name else int(share))
    other = _loaded(name, main.dtype, str(main.device))
    same_size = other.anatomy.vocabulary == main.anatomy.vocabulary
    if not same_size or (main.tokenizer is not None and other.tokenizer.get_vocab() != main.tokenizer.get_vocab()):
        raise SettingError(f"{other.name} and {main.name} do not share a vocabulary: choose a model of the same family")
    return other


@functools.lru_cache(maxsize=2)
def _loaded(name: str, dtype: torch.dtype, device: str) -> Model:
    return load(name, dtype, device)

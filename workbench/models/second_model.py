"""A second model of the same vocabulary, beside the one a run is about."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import torch

from workbench.errors import SettingError
from workbench.files import is_there
from workbench.models.fingerprint import stamps
from workbench.models.fitted import fitted
from workbench.models.load import folder_and_layers, load
from workbench.models.model import Model

_CUT = re.compile(r"/(\d{1,9}|\d{0,9}\.\d{1,9})", re.ASCII)


def is_cut(name: str) -> bool:
    """Whether a name means some layers of the main model: ``/12`` or ``/0.5``."""
    return _CUT.fullmatch(name) is not None


def second_model(main: Model, name: str) -> Model:
    """The model that ``name`` means next to ``main``.

    Parameters
    ----------
    main : Model
    name : str
        ``/12``: 12 of the main model's own layers, evenly spread, sharing its weights; ``/0.5``: that share of them;
        otherwise anything :func:`workbench.models.load` takes, a local folder by its absolute or relative path
        included, in the main model's dtype and on its device. ``folder/4`` is a cut of the model in a folder.

    Returns
    -------
    Model
        Its logits have a row's place for every token of the main model, whatever its own embedding is padded to; see
        :func:`workbench.models.fitted.fitted`.

    Raises
    ------
    SettingError
        If the two do not share a vocabulary, or the cut is not possible.
    """
    if is_cut(name):
        return main.shallow(round(float(name[1:]) * main.layers) if "." in name else int(name[1:]))
    if name.startswith("/") and not is_there(folder_and_layers(name)[0]):
        raise SettingError(
            f"{name!r} is neither a cut of {main.name} (write /12 for 12 of its layers, /0.5 for half of them) nor the "
            "path of a folder that is there"
        )
    other = load_beside(name, main.dtype, str(main.device))
    check_vocabulary(main, other)
    return fitted(other, main.anatomy.vocabulary)


def check_vocabulary(main: Model, other: Model) -> None:
    """Refuse two models whose token ids mean different texts.

    Tokenizers are compared, from text to id, not rows: one family pads its embeddings to different sizes. Where a
    model has no tokenizer nothing but the number of rows can be compared, which must then be equal.

    Raises
    ------
    SettingError
    """
    if main.tokenizer is None or other.tokenizer is None:
        same = other.anatomy.vocabulary == main.anatomy.vocabulary
        without = main.name if main.tokenizer is None else other.name
        why = (
            f": {without} has no tokenizer to compare, and {other.anatomy.vocabulary:,} and "
            f"{main.anatomy.vocabulary:,} rows are not equal"
        )
    else:
        same, why = other.tokenizer.get_vocab() == main.tokenizer.get_vocab(), ""
    if not same:
        raise SettingError(
            f"{other.name} and {main.name} do not share a vocabulary{why}; choose a model of the same family"
        )


def load_beside(name: str, dtype: torch.dtype, device: str) -> Model:
    """A model beside the main one, loaded once for as long as its files stay as they are."""
    path, layers = folder_and_layers(name)
    model = _loaded(path, dtype, device, stamps(Path(path)) if is_there(path) else ())
    return model if layers is None else model.shallow(layers)


@functools.lru_cache(maxsize=2)
def _loaded(name: str, dtype: torch.dtype, device: str, _: tuple = ()) -> Model:
    return load(name, dtype, device)

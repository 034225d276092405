"""What the copy of a state has to itself."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping, MutableSequence, MutableSet
from types import MethodType
from typing import Any

from torch import Tensor


def copied(value: Any) -> Any:
    """Tensors, lists, dictionaries and sets in memory of their own, at any depth; anything else is the same object."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple):
        parts = [copied(each) for each in value]
        same = all(one is other for one, other in zip(parts, value))
        return value if same else tuple.__new__(type(value), parts)
    if isinstance(value, MutableMapping | MutableSequence):
        made = copy.copy(value)
        for key, each in value.items() if isinstance(value, MutableMapping) else enumerate(value):
            made[key] = copied(each)
        return made
    return copy.copy(value) if isinstance(value, MutableSet) else value


def twin(state: Any, shared: tuple[str, ...] = ()) -> Any:
    """An object of the same class whose attributes are :func:`copied`, but for those that are ``shared``; its own
    methods among them are the twin's."""
    made = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, MethodType) and value.__self__ is state:
            vars(made)[name] = MethodType(value.__func__, made)
        elif name not in shared:
            vars(made)[name] = copied(value)
    return made

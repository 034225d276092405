"""What the code of a technique is, as it is loaded: one file is all that a technique of one's own needs."""

from __future__ import annotations

import hashlib
import inspect
from types import CodeType, FunctionType
from typing import Any

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def of_class(kind: type) -> str:
    """SHA-256 of a class and of all functions, classes and plain values of its module that it uses.

    It is taken of what is loaded, not of the file, which may have been edited since; so it also knows a class that was
    written in a notebook. What other modules hold is no part of it, nor where in the file something stands.
    """
    parts: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("", kind)]
    while waiting:
        name, value = waiting.pop()
        function = _function(value)
        name = getattr(value if function is None else function, "__qualname__", name)
        if name in parts:
            continue
        if isinstance(value, type):
            parts[name] = "class"
            waiting += [(base.__qualname__, base) for base in value.__bases__ if _own(base, kind)]
            waiting += [(f"{name}.{key}", each) for key, each in vars(value).items() if _of_class(key, each, kind)]
        elif function is None:
            parts[name] = _constant(value)
        else:
            parts[name] = _constant((function.__code__, function.__defaults__, function.__kwdefaults__))
            around = function.__globals__
            used = [key for key in _names(function.__code__) if key in around and _own(around[key], kind)]
            waiting += [(key, around[key]) for key in used]
    return hashlib.sha256(_constant(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _function(value: Any) -> FunctionType | None:
    """The function as it was written, under decorators that keep it."""
    for inside in ("fget", "__func__", "func"):
        value = getattr(value, inside, value)
    value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, FunctionType) else None


def _of_class(key: str, member: Any, kind: type) -> bool:
    """Whether a member of a class is a part of its code; what Python itself notes there says where it stands."""
    return _own(member, kind) and (not key.startswith("__") or _function(member) is not None)


def _own(value: Any, kind: type) -> bool:
    """Whether something is a plain value, or was made in the module of a class."""
    if isinstance(value, type):
        return value.__module__ == kind.__module__
    function = _function(value)
    return function.__module__ == kind.__module__ if function is not None else _plain(value)


def _plain(value: Any) -> bool:
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_plain, value))
    if isinstance(value, dict):
        return all(_plain(key) and _plain(each) for key, each in value.items())
    return isinstance(value, _PLAIN)


def _constant(value: Any) -> str:
    """A value as text that is the same in every process."""
    if isinstance(value, CodeType):
        return f"code({value.co_code.hex()} {value.co_names} {_constant(value.co_consts)})"
    if isinstance(value, set | frozenset):
        return f"set{sorted(map(_constant, value))}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_constant, value))}]"
    if isinstance(value, dict):
        return f"table{sorted(f'{_constant(key)}: {_constant(each)}' for key, each in value.items())}"
    return repr(value) if isinstance(value, _PLAIN) else type(value).__qualname__


def _names(code: CodeType) -> set[str]:
    """Global names and attributes that a function and the functions inside it use."""
    inner = [_names(each) for each in code.co_consts if isinstance(each, CodeType)]
    return set(code.co_names).union(*inner)

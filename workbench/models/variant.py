"""Views of an anatomy with other blocks, other weights or in another place, which leave the anatomy as it is.

Blocks, mixers, linear maps, norms and experts are dataclasses. One walk over their fields names their tensors, puts
others in their place and moves them; what does not change is shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import SettingError
from workbench.models.anatomy import Anatomy
from workbench.models.block import Block
from workbench.models.device import device_named
from workbench.models.multiply import Multiply
from workbench.models.projection import some_outputs

# Sites of an anatomy that are not blocks: those that have names, and those that only move.
_NAMED, _OTHERS = ("final_norm", "head"), ("_embedding", "_positions", "_rotary")


def named_weights(anatomy: Anatomy) -> dict[str, Tensor]:
    """Tensors of the blocks, the final norm and the head: ``layers.0.query_key_value.weight``, ``final_norm.weight``.

    A block's mixer has no level of its own in these names.
    """
    return {name: value for name, value in leaves(parts(anatomy)) if isinstance(value, Tensor)}


def varied(
    anatomy: Anatomy,
    blocks: Sequence[int] | None = None,
    others: Mapping[int, Block] | None = None,
    weights: Mapping[str, Tensor] | None = None,
    draft_vocabulary: Tensor | None = None,
    device: str | torch.device | None = None,
) -> Anatomy:
    """What :meth:`workbench.models.Model.variant` makes of a model's anatomy.

    Raises
    ------
    SettingError
    """
    view = copy.copy(anatomy)
    view._ropes = {}
    layers = range(anatomy.layers) if blocks is None else blocks
    for layer in layers:
        if not 0 <= layer < anatomy.layers:
            raise SettingError(f"there is no layer {layer} among the {anatomy.layers}: take 0 … {anatomy.layers - 1}")
    others = others or {}
    for place, block in others.items():
        if not 0 <= place < len(layers):
            raise SettingError(f"there is no block {place} to be replaced: take 0 … {len(layers) - 1}")
        if not isinstance(block, Block):
            raise SettingError(
                f"a block is replaced by a Block, not by {type(block).__name__}: give dataclasses.replace(block, …)"
            )
    sources = [others.get(place, anatomy.blocks[layer]) for place, layer in enumerate(layers)]
    view.blocks = [replace(block, index=place) for place, block in enumerate(sources)]
    if draft_vocabulary is not None:
        rows = anatomy.unembedding.shape[0]
        if not len(draft_vocabulary) or not 0 <= int(draft_vocabulary.min()) <= int(draft_vocabulary.max()) < rows:
            raise SettingError(f"a draft vocabulary is of tokens that the model gives logits of: take 0 … {rows - 1}")
        view.head = some_outputs(anatomy.head, draft_vocabulary.long())
    if weights:
        _set(view, weights)
    if device is not None and (target := device_named(device, real=False)) != view.device:
        _move(view, target)
    return view


def rebuilt(value: Any, change: Callable[[str, Any], Any], name: str = "") -> Any:
    """``value`` with ``change(name, part)`` in the place of everything in it that is neither a dataclass nor a list.

    What does not change is the same object as before.
    """
    if is_dataclass(value) and not isinstance(value, type):
        held = {each.name: getattr(value, each.name) for each in fields(value) if each.init}
        made = {field: rebuilt(part, change, _below(name, field)) for field, part in held.items()}
        different = {field: part for field, part in made.items() if part is not held[field]}
        return replace(value, **different) if different else value
    if isinstance(value, list):
        parts = [rebuilt(part, change, _below(name, str(place))) for place, part in enumerate(value)]
        return parts if any(one is not other for one, other in zip(parts, value)) else value
    return change(name, value)


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of everything that :func:`rebuilt` may change, and the class of every dataclass on the way."""
    if is_dataclass(value) and not isinstance(value, type):
        yield name, type(value)
        for each in fields(value):
            yield from leaves(getattr(value, each.name), _below(name, each.name))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, _below(name, key))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from leaves(part, _below(name, str(place)))
    else:
        yield name, value


def multiplied(block: Block, multiply: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Block:
    """A block whose dense products are formed by ``multiply(x, weight, bias)``."""
    return rebuilt(block, lambda _, part: multiply if isinstance(part, Multiply) else part)


def _below(name: str, field: str) -> str:
    if field == "mixer":
        return name
    return f"{name}.{field}" if name else field


def parts(anatomy: Anatomy) -> dict[str, Any]:
    """The sites of an anatomy that have names."""
    return {"layers": anatomy.blocks, **{name: getattr(anatomy, name) for name in _NAMED}}


def _set(view: Anatomy, weights: Mapping[str, Tensor]) -> None:
    known = named_weights(view)
    for name, tensor in weights.items():
        if name not in known:
            near = ", ".join(list(known)[:3])
            raise SettingError(f"there is no weight {name!r:.80} in this model: they are named {near}, …")
        if tensor.shape != known[name].shape:
            raise SettingError(f"{name} has shape {list(known[name].shape)}, not {list(tensor.shape)}")

    def other(name: str, part: Any) -> Any:
        return weights.get(name, part)

    view.blocks = [rebuilt(block, other, f"layers.{place}") for place, block in enumerate(view.blocks)]
    for name in _NAMED:
        setattr(view, name, rebuilt(getattr(view, name), other, name))


def _move(view: Anatomy, target: torch.device) -> None:
    view.multiply, view.device = Multiply(view.dtype, target), target

    def moved(_: str, part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.detach().to(target)
        if isinstance(part, nn.Module) and any(True for _ in (*part.parameters(), *part.buffers())):
            return copy.deepcopy(part).to(target)
        return view.multiply if isinstance(part, Multiply) else part

    view.blocks = [rebuilt(block, moved) for block in view.blocks]
    for name in (*_NAMED, *_OTHERS):
        setattr(view, name, rebuilt(getattr(view, name), moved))

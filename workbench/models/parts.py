"""A transformers module's parts as the steps of a block have them: norms, projections, experts.

What reads the same input is laid side by side in one tensor, and the module's own parameters become views of it.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from workbench.models.activation import Activation, ClampedSwiglu
from workbench.models.experts import Expert, Router, SharedExpert
from workbench.models.family import Family
from workbench.models.multiply import Multiply
from workbench.models.norm import Norm
from workbench.models.projection import Projection


def get(module: Any, path: str | None):
    """What stands at a dotted path; None for no path."""
    return None if path is None else attrgetter(path)(module)


def find(module: Any, path: str | None):
    """What stands at a path; None if nothing does."""
    try:
        return get(module, path)
    except AttributeError:
        return None


def number(config, name: str | None) -> float:
    """A factor that a configuration may name."""
    return 1.0 if name is None else float(getattr(config, name))


def read_norm(module: Any | None, family: Family) -> Norm | None:
    if module is None:
        return None
    if isinstance(module, nn.LayerNorm):
        return Norm("layer", module.weight, module.bias, module.eps)
    eps = getattr(module, "variance_epsilon", None) or module.eps
    if family.norm_weight == "one_plus":
        return Norm("rms", 1.0 + module.weight.detach().float(), None, eps, late_cast=True)
    return Norm("rms", module.weight, None, eps, late_cast=family.norm_weight == "late")


def fused(modules: list[Any], multiply: Multiply) -> Projection:
    """One projection of several side by side; the modules' own parameters become views of it."""
    if len(modules) == 1:
        (module,) = modules
        if isinstance(module, nn.Linear):
            return Projection(module.weight, module.bias, multiply)
        # GPT-2 keeps [in, out]: the numbers are laid the other way round, and its parameter becomes a view of them.
        weight = module.weight.detach().t().contiguous()
        module.weight.data = weight.t()
        return Projection(weight, module.bias, multiply)
    bias = None if modules[0].bias is None else _joined([module.bias for module in modules])
    return Projection(_joined([module.weight for module in modules]), bias, multiply)


@torch.no_grad()
def _joined(parts: list[Tensor]) -> Tensor:
    """Parameters as one tensor along their first dimension, and the parameters as views of it."""
    first, rows = parts[0], sum(part.shape[0] for part in parts)
    ends = [part.data_ptr() + part.numel() * part.element_size() for part in parts]
    same = {part.untyped_storage().data_ptr() for part in parts} == {first.untyped_storage().data_ptr()}
    if same and ends[:-1] == [part.data_ptr() for part in parts[1:]]:
        return first.detach().as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())
    joined = torch.cat([part.detach() for part in parts])
    start = 0
    for part in parts:
        part.data = joined[start : start + part.shape[0]]
        start += part.shape[0]
    return joined


def read_router(gate: Any, experts: Any, family: Family, multiply: Multiply) -> Router:
    """A router and its experts, whose weights [experts, out, in] are each a view of what is stored."""
    stored = (experts.gate_up_proj, experts.down_proj)
    gate_up, down = (_by_row(each) if family.experts_by_column else each.detach() for each in stored)
    biases = (getattr(experts, f"{name}_bias", None) for name in ("gate_up_proj", "down_proj"))
    gate_up_bias, down_bias = ([None] * len(down) if each is None else each.detach() for each in biases)
    parts = zip(gate_up, gate_up_bias, down, down_bias, strict=True)
    return Router(
        scores=Projection(gate.weight, getattr(gate, "bias", None), multiply),
        experts=[Expert(Projection(up, b, multiply), Projection(out, c, multiply)) for up, b, out, c in parts],
        chosen=gate.top_k,
        normalised=getattr(gate, "norm_topk_prob", True),
    )


def _by_row(parameter: nn.Parameter) -> Tensor:
    """A parameter [experts, in, out] as [experts, out, in]; the parameter becomes a view of it."""
    turned = parameter.detach().transpose(1, 2).contiguous()
    parameter.data = turned.transpose(1, 2)
    return turned


def read_shared(module: Any, family: Family, multiply: Multiply) -> SharedExpert | None:
    mlp, gate = get(module, family.shared_expert), get(module, family.shared_expert_gate)
    if mlp is None:
        return None
    gate_up = Projection(_joined([mlp.gate_proj.weight, mlp.up_proj.weight]), None, multiply)
    down = Projection(mlp.down_proj.weight, None, multiply)
    return SharedExpert(gate_up, down, None if gate is None else Projection(gate.weight, None, multiply))


def read_activation(module: Any, experts: Any | None, family: Family) -> Activation | ClampedSwiglu:
    if experts is None:
        return Activation(get(module, family.activation))
    return ClampedSwiglu(experts.alpha, experts.limit) if family.experts_by_column else Activation(experts.act_fn)

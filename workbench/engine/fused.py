"""Neighbouring blocks of a model as one compiled call on the CPU, where nobody looks or decides in between.

A pass takes this way by itself (:meth:`workbench.engine.passes.Pass.run`), and the plain steps wherever a policy, a tap
or a state of another form needs them; the numbers are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor

from workbench.engine.attention import chain_keys
from workbench.engine.state import LayerCache
from workbench.models import Anatomy, Block
from workbench.models.activation import Activation
from workbench.models.mixers import Attention
from workbench.models.multiply import Multiply
from workbench.models.norm import Norm
from workbench.models.projection import Projection
from workbench.models.removed import NoMixer
from workbench.models.rotate import Rope
from workbench_kernels.arithmetic import compiled
from workbench_kernels.blocks import Blocks, BlockWeights, NormWeights, Table

if TYPE_CHECKING:
    from workbench.engine.running import Running

_KNOWN: WeakKeyDictionary[Anatomy, FusedBlocks] = WeakKeyDictionary()


class FusedBlocks:
    """The blocks of a model that the kernel can run.

    Parameters
    ----------
    anatomy : Anatomy

    Attributes
    ----------
    usable : list of bool
        Whether the kernel has the steps of a block: attention and a dense MLP, one after the other, or either, with
        root-mean-square norms or none, weights as they were loaded, and an activation that is compiled.
    windows : list of int or None
        Sliding window of each.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._parts = [_parts(block) for block in anatomy.blocks]
        self._addresses = [_addresses(block) for block in anatomy.blocks]
        self._kinds = sorted({block.rope_kind for block in anatomy.blocks} - {None})
        self._sizes = [(0, 0)] * anatomy.layers
        weights = [_weights(block, self._kinds) for block in anatomy.blocks]
        for index, each in enumerate(weights):
            if each is not None and each.why_not(anatomy.dtype, anatomy.width):
                weights[index] = None
            elif each is not None:
                self._sizes[index] = each.kv_heads, each.head_dim
        self.usable = [each is not None for each in weights]
        self.windows = [None if each is None else each.window or None for each in weights]
        self._blocks = Blocks(anatomy.dtype, anatomy.width, weights)

    def of(self, anatomy: Anatomy) -> bool:
        """Whether the blocks still have the parts that were laid out, at the same addresses."""
        return self._addresses == [_addresses(block) for block in anatomy.blocks] and all(
            all(mine is theirs for mine, theirs in zip(_parts(block), parts, strict=True))
            for block, parts in zip(anatomy.blocks, self._parts, strict=True)
        )

    def run(
        self,
        first: int,
        x: Tensor,
        layers: Sequence[Any],
        ropes: dict[str, Rope],
        positions: Tensor,
        rows: Sequence[int],
        marks: Tensor | None,
    ) -> Tensor:
        """Run the blocks from ``first`` on, one for each of ``layers``, which get the rows' entries.

        Parameters
        ----------
        first : int
        x : Tensor [1, rows, width]
        layers : sequence of LayerCache or RecurrentState
            The latter of blocks without attention.
        ropes : dict of str to (cosine, signed sine)
            Of the rows, see :meth:`workbench.models.Anatomy.rope`.
        positions : int Tensor [rows]
        rows : sequence of int
            Their numbers in the pass.
        marks : uint8 Tensor [rows, rows] or None
            Which see which; None for a chain.

        Returns
        -------
        Tensor [1, rows, width]
        """
        count, caches = len(rows), self._blocks.caches
        for index, layer in enumerate(layers, first):
            if layer.recurrent:
                continue
            heads, width = self._sizes[index]
            cache = caches[index]
            cache.keys, cache.values, cache.head = layer.open(x, heads, width, count)
            cache.held = layer.length
        tables = [Table(*ropes[kind]) for kind in self._kinds]
        out = self._blocks(first, first + len(layers), x[0], tables, marks)
        for layer in layers:
            if layer.recurrent:
                layer.pass_by(rows)
            else:
                layer.written(count, positions, rows)
        return out[None]


def run_together(running: Running, until: int | None) -> bool:
    """Run the next blocks of a pass in one call, as many as can be before ``until``; False if there is none."""
    decoder, first = running.decoder, running.layer
    fused, layers = decoder.fused, _layers(running, until)
    if fused is None or first is None or not layers:
        return False
    rows, window = running.rows, fused.windows
    ran = [index for index in range(first, first + len(layers)) if index not in decoder.removed]
    states = [layers[index - first] for index in ran]
    attending = [(index, layer) for index, layer in zip(ran, states) if not layer.recurrent]
    read, marks = dict.fromkeys(ran, 0.0), None
    if running.relation.chain or len(rows) == 1:
        held = {index: (layer.length + len(rows), window[index]) for index, layer in attending}
        known = {each: chain_keys(len(rows), *each) for each in set(held.values())}
        read |= {index: known[each] for index, each in held.items()}
    elif attending:
        marks, own = running.visibility.over(attending[0][1], attending[0][0], None).marks()
        read |= {index: layer.length + own for index, layer in attending}
    running.x = fused.run(first, running.x, layers, running.tables, running.positions, rows, marks)
    decoder.count_blocks(ran, len(rows), list(read.values()), states)
    running.go_on(first + len(layers) - 1)
    return True


def _layers(running: Running, until: int | None) -> list[Any]:
    """States of the blocks that one call can run: nobody looks into them or decides, and what the rows see of their
    entries is all, but for the rows' own."""
    decoder, rows, first = running.decoder, running.rows, running.layer
    fused, attend = decoder.fused, decoder.attend
    if fused is None or first is None or not running.undisturbed:
        return []
    if decoder.mlp is not None or decoder.compiled_steps is not None:
        return []
    if decoder.depth is not None:
        if decoder.stretch is None:
            return []
        until = min(decoder.anatomy.layers if until is None else until, decoder.stretch(first) + 1)
    if (attend.prefill_policy if attend.prompt else attend.policy) is not None:
        return []
    if running.prefill and (decoder.context or (decoder.cache_policy and running.last_chunk)):
        return []
    chain, layers = running.relation.chain or len(rows) == 1, []
    for index in range(first, decoder.anatomy.layers if until is None else min(until, decoder.anatomy.layers)):
        layer, window = decoder.cache.layers[index], fused.windows[index]
        if index in decoder.borrowed:
            break
        if fused.usable[index] and layer.recurrent:
            layers.append(layer)
            continue
        if not fused.usable[index] or type(layer) is not LayerCache or layer.valid is not None:
            break
        if layer.rows and not _continues(running, layer):
            break
        if layer.contiguous and layer.length != running.start + rows[0]:
            break
        if window is not None and not (layer.contiguous and (chain or layer.length + len(rows) <= window)):
            break
        layers.append(layer)
    return layers


def _continues(running: Running, layer: LayerCache) -> bool:
    """Whether the rows follow those of a chain that have passed before, all of which are in the layer: to a token that
    is added, they are text like any other."""
    entries = [row for visit in layer.rows for row in visit]
    return running.relation.chain and entries == list(range(running.rows[0]))


def fused_blocks(anatomy: Anatomy) -> FusedBlocks | None:
    """The compiled blocks of a model, laid out at the first call and kept as long as the model lives; None where
    nothing is compiled, or no block is such a one."""
    if anatomy.device.type != "cpu" or not compiled(anatomy.dtype):
        return None
    if anatomy not in _KNOWN or not _KNOWN[anatomy].of(anatomy):
        _KNOWN[anatomy] = FusedBlocks(anatomy)
    known = _KNOWN[anatomy]
    return known if any(known.usable) else None


def _parts(block: Block) -> tuple[Any, ...]:
    """What the kernel's numbers hang on and somebody might put another in the place of."""
    return (block.mixer, block.router, block.activation, *_maps(block), *_norms(block))


def _maps(block: Block) -> tuple[Any, ...]:
    mixer = block.mixer
    own = (mixer.query_key_value, mixer.attention_output) if isinstance(mixer, Attention) else ()
    return (*own, block.up, block.down)


def _norms(block: Block) -> tuple[Norm | None, ...]:
    mixer = block.mixer
    own = (mixer.query_norm, mixer.key_norm) if isinstance(mixer, Attention) else ()
    return (block.attention_norm, block.attention_post_norm, block.mlp_norm, block.mlp_post_norm, *own)


def _addresses(block: Block) -> list[int]:
    """Where its weights are: a module that is moved or cast gives its parameters other memory."""
    dense: list[Any] = [each for each in _maps(block) if type(each) is Projection]
    norms = [norm.weight for norm in _norms(block) if norm is not None]
    tensors = [*(each.weight for each in dense), *(each.bias for each in dense), *norms]
    return [tensor.data_ptr() for tensor in tensors if tensor is not None]


def _weights(block: Block, kinds: Sequence[str]) -> BlockWeights | None:
    mixer, activation = block.mixer, block.activation
    if (
        type(block) is not Block
        or type(mixer) not in (Attention, NoMixer)
        or block.router is not None
        or block.parallel
    ):
        return None
    if type(activation) is not Activation or activation.kind is None:
        return None
    if not all(map(_dense, _maps(block))) or not all(map(_compiled, _norms(block))):
        return None
    own = _attention(mixer, kinds) if type(mixer) is Attention else _NO_ATTENTION
    return (
        None
        if own is None
        else BlockWeights(
            up=_linear(block.up),
            down=_linear(block.down),
            activation=activation.kind,
            gated=block.gated,
            attention_norm=_norm(block.attention_norm),
            attention_post_norm=_norm(block.attention_post_norm),
            mlp_norm=_norm(block.mlp_norm),
            mlp_post_norm=_norm(block.mlp_post_norm),
            residual_multiplier=block.residual_multiplier,
            **own,
        )
    )


_NO_ATTENTION: dict[str, Any] = {
    "query_key_value": None, "attention_output": None, "heads": 0, "kv_heads": 0, "head_dim": 0, "scale": 1.0
}  # fmt: skip


def _attention(mixer: Attention, kinds: Sequence[str]) -> dict[str, Any] | None:
    """What the kernel needs of an attention; None if it does not have its steps."""
    if mixer.interleaved or mixer.rotary_pairs or (mixer.norm_over_all_heads and mixer.query_norm is not None):
        return None
    scoring = mixer.scoring
    return {
        "query_key_value": _linear(mixer.query_key_value),
        "attention_output": _linear(mixer.attention_output),
        "heads": mixer.heads,
        "kv_heads": mixer.kv_heads,
        "head_dim": mixer.head_dim,
        "scale": scoring.scale,
        "query_norm": _norm(mixer.query_norm),
        "key_norm": _norm(mixer.key_norm),
        "rope": -1 if mixer.rope_kind is None else kinds.index(mixer.rope_kind),
        "window": mixer.window or 0,
        "softcap": scoring.softcap or 0.0,
        "sinks": None if scoring.sinks is None else scoring.sinks.detach().float().contiguous(),
    }


def _linear(linear: Any) -> tuple[Tensor, Tensor | None] | None:
    return None if linear is None else (linear.weight, linear.bias)


def _dense(linear: Any) -> bool:
    return linear is None or (
        type(linear) is Projection and type(linear.multiply) is Multiply and linear.multiply.compiled
    )


def _compiled(norm: Norm | None) -> bool:
    return norm is None or (type(norm) is Norm and norm.kind == "rms" and norm.weight is not None)


def _norm(norm: Norm | None) -> NormWeights | None:
    return None if norm is None else NormWeights(norm.weight, norm.eps, norm.late_cast)

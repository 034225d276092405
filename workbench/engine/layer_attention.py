"""The attention of one layer of a pass: by the compiled kernel, or by the fastest way of torch that its mask allows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.engine.attention import attend, chain_keys, mean_keys, visible
from workbench.engine.state import KeyValueState
from workbench.models import Block
from workbench_kernels.arithmetic import compiled
from workbench_kernels.tree_attention import TreeVerification
from workbench_kernels.tree_attention.native import native_attention

# Rows up to which the verification kernel is faster than a mask, where nothing is compiled.
_MOST_VERIFIED = 128

Masks = dict[Any, tuple[Any, float]]
"""What the layers of one pass share: masks, and the keys that a query reads on average."""


class LayerAttention:
    """Weighted values of a layer's queries over its cache, and how many keys a query read on average.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype
    policy : object, optional
        Of the slot ``attention``; it is asked first. An attribute too.
    prefill_policy : object, optional
        Of the slot ``prefill_attention``; asked in its place while ``prompt`` is set.

    Attributes
    ----------
    prompt : bool
        Whether the queries are those of tokens of the prompt.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, policy: Any = None, prefill_policy: Any = None
    ) -> None:
        self.policy, self.prefill_policy, self.prompt = policy, prefill_policy, False
        self._compiled = device.type == "cpu" and compiled(dtype)

    def __call__(
        self, block: Block, query: Tensor, layer: KeyValueState, positions: Tensor, tree: Tensor | None, masks: Masks
    ) -> tuple[Tensor, float]:
        """Attend to a cache whose last entries are the queries' own.

        Parameters
        ----------
        block : Block
        query : Tensor [batch, heads, tokens, head_dim]
        layer : KeyValueState
        positions : int Tensor [tokens]
        tree : bool Tensor [tokens, tokens] or None
            True where the row's token may see the column's; None for a chain.
        masks : dict
            Empty at the first layer of a pass, and after the tokens changed.

        Returns
        -------
        Tensor [batch, heads, tokens, head_dim], float
        """
        policy = self.prefill_policy if self.prompt else self.policy
        if policy is not None:
            mask, keys_read = self._mask(block, query, layer, positions, tree, masks)
            ask = policy.attend_prompt if self.prompt else policy.attend
            chosen = ask(block.index, query, layer, mask, block.scoring)
            return chosen or (attend(query, layer.keys, layer.values, mask, block.scoring), keys_read)
        if layer.attend is not None:
            own = layer.attend(query, lambda: self._mask(block, query, layer, positions, tree, masks)[0], block.scoring)
            if own is not None:
                return own
        if layer.valid is not None:
            mask, keys_read = self._mask(block, query, layer, positions, tree, masks)
            return attend(query, layer.keys, layer.values, mask, block.scoring), keys_read
        if self._compiled:
            return self._one_way(block, query, layer, positions, tree, masks)
        # Neither torch's fused attention nor the verification kernel knows soft caps and sinks.
        plain = block.scoring.plain
        count, held, keys, values = query.shape[2], layer.length, layer.keys, layer.values
        if plain and 1 < count == held and tree is None and block.window is None:
            scale = block.scale
            out = F.scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scale, enable_gqa=True)
            return out, chain_keys(count, held, None)
        uncut = block.window is None or (layer.contiguous and held <= block.window)
        if count == 1 and not uncut and layer.contiguous:
            # One token reads the newest keys of its window, and all of them.
            held, uncut = block.window, True
            keys, values = keys[:, :, -held:], values[:, :, -held:]
        if plain and 1 < count <= _MOST_VERIFIED and count < held and uncut:
            if "drafted" not in masks:
                own = query.new_ones(count, count, dtype=torch.bool).tril() if tree is None else tree
                masks["drafted"] = TreeVerification(own), float(own.sum()) / count
            verification, own_keys = masks["drafted"]
            return verification(query, keys, values, block.scale), held - count + own_keys
        if count == 1 and uncut:
            return attend(query, keys, values, None, block.scoring), float(held)
        mask, keys_read = self._mask(block, query, layer, positions, tree, masks)
        return attend(query, keys, values, mask, block.scoring), keys_read

    def _one_way(
        self, block: Block, query: Tensor, layer: KeyValueState, positions: Tensor, tree: Tensor | None, masks: Masks
    ) -> tuple[Tensor, float]:
        """By the compiled kernel whatever the tokens are, so that each is attended as if it had come alone."""
        count, held, window = query.shape[2], layer.length, block.window
        if tree is None and (window is None or layer.contiguous):
            marks, keys_read = None, chain_keys(count, held, window)
        elif window is None or (layer.contiguous and held <= window):
            if "drafted" not in masks:
                masks["drafted"] = tree.to(torch.uint8), float(tree.sum()) / count
            marks, own_keys = masks["drafted"]
            keys_read, window = held - count + own_keys, None
        else:
            mask, keys_read = self._mask(block, query, layer, positions, tree, masks)
            marks, window = None if mask is None else mask.view(torch.uint8), None
        scale, softcap, sinks = block.scoring.scale, block.scoring.softcap, block.scoring.sinks
        out = native_attention(
            query, layer.keys, layer.values, marks, scale, window=window, softcap=softcap, sinks=sinks
        )
        return out, keys_read

    @staticmethod
    def _mask(
        block: Block, query: Tensor, layer: KeyValueState, positions: Tensor, tree: Tensor | None, masks: Masks
    ) -> tuple[Tensor | None, float]:
        key = (layer.length, block.window, True) if layer.contiguous else (block.index,)
        if key not in masks:
            mask = visible(layer, query.shape[2], positions, tree, block.window)
            masks[key] = mask, mean_keys(mask, layer.length)
        return masks[key]

"""The attention of one layer of a pass: by the compiled kernel, or by the fastest way of torch that is open to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from workbench.engine.attention import attend, chain_keys
from workbench.engine.state import KeyValueState
from workbench.engine.visibility import Visible
from workbench.models import Block
from workbench_kernels.arithmetic import compiled
from workbench_kernels.tree_attention import TreeVerification
from workbench_kernels.tree_attention.native import native_attention

# Rows up to which the verification kernel is faster than a mask, where nothing is compiled.
_MOST_VERIFIED = 128


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

    def __call__(self, block: Block, query: Tensor, layer: KeyValueState, visible: Visible) -> tuple[Tensor, float]:
        """Attend to a cache whose last entries are the queries' own.

        Parameters
        ----------
        block : Block
        query : Tensor [batch, heads, tokens, head_dim]
        layer : KeyValueState
        visible : Visible
            What the queries see of it.

        Returns
        -------
        Tensor [batch, heads, tokens, head_dim], float
        """
        policy = self.prefill_policy if self.prompt else self.policy
        if policy is not None:
            ask = policy.attend_prompt if self.prompt else policy.attend
            chosen = ask(block.index, query, layer, visible, block.scoring)
            if chosen is not None:
                return chosen
        if layer.attend is not None:
            own = layer.attend(query, visible.mask, block.scoring)
            if own is not None:
                return own
        if layer.valid is not None:
            return attend(query, layer.keys, layer.values, visible.mask(), block.scoring), visible.keys_read()
        if self._compiled:
            return self._one_way(block, query, layer, visible)
        # Neither torch's fused attention nor the verification kernel knows soft caps and sinks.
        plain, window, chain = block.scoring.plain, block.window, visible.chain
        count, held, keys, values = query.shape[2], layer.length, layer.keys, layer.values
        if plain and 1 < count == held and chain and window is None:
            scale = block.scale
            out = F.scaled_dot_product_attention(query, keys, values, is_causal=True, scale=scale, enable_gqa=True)
            return out, chain_keys(count, held, None)
        uncut = window is None or (layer.contiguous and held <= window)
        if count == 1 and chain and not uncut and layer.contiguous:
            # One token reads the newest keys of its window, and all of them.
            held, uncut = window, True
            keys, values = keys[:, :, -held:], values[:, :, -held:]
        if plain and 1 < count <= _MOST_VERIFIED and count < held and uncut and (chain or visible.alone):
            verification, own_keys = visible.drafted(chain, TreeVerification)
            return verification(query, keys, values, block.scale), held - count + own_keys
        if count == 1 and uncut and chain:
            return attend(query, keys, values, None, block.scoring), float(held)
        return attend(query, keys, values, visible.mask(), block.scoring), visible.keys_read()

    def _one_way(self, block: Block, query: Tensor, layer: KeyValueState, visible: Visible) -> tuple[Tensor, float]:
        """By the compiled kernel whatever the tokens are, so that each is attended as if it had come alone."""
        count, held, window = query.shape[2], layer.length, block.window
        if (window is None or layer.contiguous) and visible.chain:
            marks, keys_read = None, chain_keys(count, held, window)
        elif (window is None or (layer.contiguous and held <= window)) and visible.alone:
            marks, own_keys = visible.marks()
            keys_read, window = held - count + own_keys, None
        else:
            mask, keys_read = visible.mask(), visible.keys_read()
            marks, window = None if mask is None else mask.view(torch.uint8), None
        scale, softcap, sinks = block.scoring.scale, block.scoring.softcap, block.scoring.sinks
        out = native_attention(
            query, layer.keys, layer.values, marks, scale, window=window, softcap=softcap, sinks=sinks
        )
        return out, keys_read

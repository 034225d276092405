"""The same sites and the same per-layer steps for every supported architecture.

An :class:`Anatomy` reads one row of :data:`workbench.models.families.FAMILIES` against a Hugging Face model and offers
``embed``, ``rope``, ``blocks`` and ``unembed``. Projections that read the same input are stored side by side in one
tensor and the model's own parameters become views of it: no second copy, one product instead of three, and the Hugging
Face model goes on working with the same values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import UnsupportedModel
from workbench.models.attention import Scoring
from workbench.models.block import Block
from workbench.models.families import FAMILIES, unknown_family
from workbench.models.family import Family
from workbench.models.mixers import Attention
from workbench.models.multiply import Multiply
from workbench.models.parts import find, fused, get, number, read_activation, read_norm, read_router, read_shared
from workbench.models.projection import LinearMap, Projection
from workbench.models.rotary import GrowingTable, grows, look_up, original_positions, usable_positions
from workbench.models.rotate import Rope

SITES = ("embedding", "query_key_value", "attention_output", "mlp_output", "router_logits", "residual")
"""What a probe can read: the residual stream before the first block, (queries, keys, values) of a layer, what each
sublayer adds, router logits, and the residual stream after a layer."""


class Anatomy:
    """Sites and steps of one model.

    Parameters
    ----------
    hf : transformers.PreTrainedModel
        A causal language model of a supported family, in evaluation mode.

    Attributes
    ----------
    family : Family
    width, vocabulary, positions : int
        Width of the residual stream, number of tokens, and longest sequence the model knows, rotary scaling included.
    growing : tuple of str
        Kinds of rotary tables whose frequencies hang on the length of the text.
    switch : int or None
        Longest text that is read with the short ones of two sets of rotary factors, where the cache is computed anew
        for a longer one; None where keys stay as they were rotated.
    blocks : list of Block
    final_norm : Norm
    head : LinearMap [vocabulary, width]
        The unembedding.
    multiply : Multiply
        Forms the products of all dense weights.
    softcap : float or None
        Final logits are ``softcap * tanh(logits / softcap)``.
    logit_scale : float
        What they are multiplied with before that.

    Raises
    ------
    UnsupportedModel
        If the family has no row in the table, or a configuration value is one that its steps do not cover.
    """

    def __init__(self, hf: Any) -> None:
        config = hf.config
        if config.model_type not in FAMILIES:
            raise UnsupportedModel(unknown_family(config.model_type))
        self.family: Family = FAMILIES[config.model_type]
        for name, value in self.family.required:
            known = value if isinstance(value, tuple) else (value,)
            attribute = getattr(config, name, known[0])
            if attribute not in known:
                raise UnsupportedModel(
                    f"{self.family.title} with {name}={attribute!r} is not supported; only {name}={known[-1]!r} is"
                )
        self.hf = hf
        self.config = config
        self._embedding = attrgetter(self.family.embedding)(hf)
        self._positions = get(hf, self.family.position_embedding)
        self._rotary = get(hf, self.family.rotary)
        self.dtype: torch.dtype = self._embedding.weight.dtype
        self.device: torch.device = self._embedding.weight.device
        self.width: int = self._embedding.weight.shape[1]
        if self.width != config.hidden_size:
            raise UnsupportedModel(
                f"{self.family.title} with an embedding width of {self.width} and a hidden size of "
                f"{config.hidden_size} is not supported; the two must be equal"
            )
        self.final_norm = read_norm(attrgetter(self.family.final_norm)(hf), self.family)
        self.multiply = Multiply(self.dtype, self.device)
        head = hf.get_output_embeddings()
        self.head: LinearMap = Projection(head.weight, head.bias, self.multiply)
        self.vocabulary: int = head.weight.shape[0]
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.logit_scale: float = 1 / number(config, self.family.logits_divisor)
        self._embedding_multiplier = number(config, self.family.embedding_multiplier)
        self.blocks = [self._block(i, module) for i, module in enumerate(attrgetter(self.family.blocks)(hf))]
        kinds = {block.rope_kind for block in self.blocks} - {None}
        self.positions: int = usable_positions(config, kinds)
        self.growing = tuple(kind for kind in kinds if grows(config, kind))
        anew = self.family.reads_anew and self.growing
        self.switch: int | None = original_positions(config, self.growing[0]) if anew else None
        self._ropes: dict[str, Any] = {}

    @property
    def layers(self) -> int:
        return len(self.blocks)

    @property
    def embedding(self) -> Tensor:
        """Tensor [tokens, width]: the weights of the embedding, before any multiplier."""
        return self._embedding.weight

    @property
    def unembedding(self) -> Tensor:
        """Tensor [vocabulary, width]: the weights of the head."""
        return self.head.weight

    @property
    def unembedding_bias(self) -> Tensor | None:
        return self.head.bias

    def embed(self, tokens: Tensor, positions: Tensor, rows: Tensor | None = None) -> Tensor:
        """Residual stream [batch, tokens, width] before the first block.

        Parameters
        ----------
        tokens : int Tensor [batch, tokens]
        positions : int Tensor [tokens]
        rows : Tensor [rows, width], optional
            What stands in the place of the embedding of the token ``-1 - k``: row k; without them all tokens are the
            model's own.
        """
        if rows is None:
            x = self._embedding(tokens)
        else:
            x = torch.where(
                (tokens < 0)[..., None], rows[(-1 - tokens).clamp_min(0)], self._embedding(tokens.clamp_min(0))
            )
        if self._embedding_multiplier != 1:
            x = x * self._embedding_multiplier
        if self._positions is not None:
            x = x + nn.functional.embedding(positions + self.family.position_offset, self._positions.weight)
        return x

    def rope(self, positions: Tensor, length: int | Tensor | None = None, below: int | None = None) -> dict[str, Rope]:
        """Cosine and signed sine, each [tokens, 1, rotary_dim], for each kind of rotary table the layers name.

        Parameters
        ----------
        positions : int Tensor [tokens]
            Any position, also beyond ``self.positions``.
        length : int or int Tensor [tokens], optional
            Tokens of the text that the rows belong to, one number or one for each; it matters to the kinds that are
            ``growing``. By default the text ends with the last position.
        below : int, optional
            A number that all positions are below; by default they are looked at, and the host waits for a device.

        Notes
        -----
        Tables are computed once and looked up, except for the kinds that have frequencies for every length.
        """
        out = {}
        for kind in {block.rope_kind for block in self.blocks} - {None}:
            if kind in self.growing:
                if kind not in self._ropes:
                    rows = self._rope_rows(kind)
                    self._ropes[kind] = GrowingTable(self._rotary, self.config, kind, rows, self.device)
                out[kind] = self._ropes[kind](positions, length, below)
                continue
            rows_of = functools.partial(self.rope_of_model, kind)
            out[kind] = look_up(self._ropes, kind, positions, self.device, rows_of, below)
        return out

    def rope_of_model(self, kind: str, positions: Tensor) -> Rope:
        """Rows of one kind as the model's own module gives them for a text that ends with the last position; where they
        hang on its length, they may also hang on what it was asked for before."""
        return self._rope_rows(kind)(self._rotary, positions)

    def unembed(self, x: Tensor) -> Tensor:
        """Next-token logits [..., vocabulary], in the model's dtype, from a residual stream [..., width]."""
        return self.finish(self.head(self.final_norm(x)))

    def finish(self, products: Tensor) -> Tensor:
        """Logits of products with rows of the unembedding: scaled and soft-capped, as the model does it."""
        logits = products if self.logit_scale == 1 else products * self.logit_scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def _rope_rows(self, kind: str) -> Callable[[nn.Module, Tensor], Rope]:
        # Without a reference to this object, which would keep its weights in memory.
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        return functools.partial(_rope_rows, kind, self.family.rotary_half, like)

    def _block(self, index: int, module: Any) -> Block:
        family, multiply = self.family, self.multiply
        experts = find(module, family.experts)
        parallel = family.parallel_residual
        return Block(
            index=index,
            mixer=self._attention(index, module),
            parallel=bool(getattr(self.config, parallel) if isinstance(parallel, str) else parallel),
            gated=family.gated,
            attention_norm=read_norm(get(module, family.attention_norm), family),
            attention_post_norm=read_norm(get(module, family.attention_post_norm), family),
            mlp_norm=read_norm(get(module, family.mlp_norm), family),
            mlp_post_norm=read_norm(get(module, family.mlp_post_norm), family),
            up=None if experts is not None else fused([get(module, path) for path in family.up], multiply),
            down=None if experts is not None else fused([get(module, family.down)], multiply),
            router=None if experts is None else read_router(get(module, family.router), experts, family, multiply),
            shared=None if experts is None else read_shared(module, family, multiply),
            activation=read_activation(module, experts, family),
            residual_multiplier=number(self.config, family.residual_multiplier),
        )

    def _attention(self, index: int, module: Any) -> Attention:
        family, config = self.family, self.config
        attention = attrgetter(family.attention)(module)
        heads = config.num_attention_heads
        query_key_value = fused([get(module, path) for path in family.query_key_value], self.multiply)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        window = None
        if family.window is not None:
            window = getattr(attention if family.window == "attention" else config, "sliding_window", None) or None
        kinds = config.rope_parameters if family.rotary else {}
        layered = "rope_type" not in kinds and family.rotary is not None
        rotated = family.rotary is not None and (not family.unrotated or bool(getattr(config, family.unrotated)[index]))
        softcap = getattr(config, family.attention_softcap) if family.attention_softcap else None
        return Attention(
            heads=heads,
            kv_heads=(query_key_value.weight.shape[0] // head_dim - heads) // 2,
            head_dim=head_dim,
            scoring=Scoring(float(attention.scaling), softcap, get(module, family.sinks)),
            window=window,
            rope_kind=None if not rotated else config.layer_types[index] if layered else "all",
            query_key_value=query_key_value,
            attention_output=fused([get(module, family.attention_output)], self.multiply),
            query_norm=read_norm(get(module, family.query_norm), family),
            key_norm=read_norm(get(module, family.key_norm), family),
            norm_over_all_heads=family.norm_over_all_heads,
            interleaved=family.interleaved,
            rotary_pairs=family.rotary_pairs,
        )


def _rope_rows(kind: str, half_table: bool, like: Tensor, rotary: nn.Module, positions: Tensor) -> Rope:
    named = (kind,) if kind != "all" else ()
    cosine, sine = rotary(like, positions[None], *named)
    if half_table:
        cosine, sine = (torch.cat((table, table), -1) for table in (cosine, sine))
    half = sine.shape[-1] // 2
    sine = torch.cat((-sine[..., :half], sine[..., half:]), -1)
    return cosine[0, :, None], sine[0, :, None]

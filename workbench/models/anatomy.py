"""The same sites and the same per-layer steps for every supported architecture.

An :class:`Anatomy` reads one row of :data:`workbench.models.families.FAMILIES` against a Hugging Face model and offers
``embed``, ``rope``, ``blocks`` and ``unembed``. Projections that read the same input are stored side by side in one
tensor and the model's own parameters become views of it: no second copy, one product instead of three, and the Hugging
Face model goes on working with the same values.
"""

from __future__ import annotations

import functools
from operator import attrgetter

import torch
from torch import Tensor, nn

from workbench.errors import UnsupportedModel
from workbench.models.activation import Activation
from workbench.models.block import Block, Norm, Projection, Rope, Router
from workbench.models.families import FAMILIES, Family
from workbench.models.multiply import Multiply
from workbench.models.rotary import GrowingTable, grows, parameters, usable_positions

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
    rope_grows : bool
        Whether rotary frequencies hang on the length of the text.
    switch : int or None
        Longest text that is read with the short ones of two sets of rotary factors, where the cache is computed anew
        for a longer one; None where keys stay as they were rotated.
    blocks : list of Block
    final_norm : Norm
    unembedding : Tensor [vocabulary, width]
    softcap : float or None
        Final logits are ``softcap * tanh(logits / softcap)``.

    Raises
    ------
    UnsupportedModel
        If the family has no row in the table, or a configuration value is one that its steps do not cover.
    """

    def __init__(self, hf: nn.Module) -> None:
        config = hf.config
        if config.model_type not in FAMILIES:
            known = ", ".join(f"{row.title} ({row.name})" for row in FAMILIES.values())
            raise UnsupportedModel(f"model type {config.model_type!r} is not supported; supported are: {known}")
        self.family: Family = FAMILIES[config.model_type]
        for name, value in self.family.required:
            found = getattr(config, name, value)
            if found != value:
                raise UnsupportedModel(
                    f"{self.family.title} with {name}={found!r} is not supported; only {name}={value!r} is"
                )
        self.hf = hf
        self.config = config
        self._embedding = attrgetter(self.family.embedding)(hf)
        self._positions = _get(hf, self.family.position_embedding)
        self._rotary = _get(hf, self.family.rotary)
        self.dtype: torch.dtype = self._embedding.weight.dtype
        self.device: torch.device = self._embedding.weight.device
        self.width: int = self._embedding.weight.shape[1]
        if self.width != config.hidden_size:
            raise UnsupportedModel(
                f"{self.family.title} with an embedding width of {self.width} and a hidden size of "
                f"{config.hidden_size} is not supported; the two must be equal"
            )
        self.final_norm = _norm(attrgetter(self.family.final_norm)(hf), config)
        head = hf.get_output_embeddings()
        self.unembedding: Tensor = head.weight
        self.unembedding_bias: Tensor | None = head.bias
        self.vocabulary: int = head.weight.shape[0]
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.multiply = Multiply(self.dtype, self.device)
        self.blocks = [self._block(i, module) for i, module in enumerate(attrgetter(self.family.blocks)(hf))]
        kinds = {block.rope_kind for block in self.blocks} - {None}
        self.positions: int = usable_positions(config, kinds)
        growing = [kind for kind in kinds if grows(config, kind)]
        self.rope_grows = bool(growing)
        self.switch: int | None = None
        if growing and self.family.reads_anew:
            self.switch = parameters(config, growing[0])["original_max_position_embeddings"]
        self._ropes: dict[str, Rope | GrowingTable] = {}

    @property
    def layers(self) -> int:
        return len(self.blocks)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Residual stream [batch, tokens, width] before the first block.

        Parameters
        ----------
        tokens : int Tensor [batch, tokens]
        positions : int Tensor [tokens]
        """
        x = self._embedding(tokens)
        if self._positions is not None:
            x = x + nn.functional.embedding(positions + self.family.position_offset, self._positions.weight)
        return x

    def rope(self, positions: Tensor, length: int | Tensor | None = None) -> dict[str, Rope]:
        """Cosine and signed sine, each [tokens, 1, rotary_dim], for each kind of rotary table the layers name.

        Parameters
        ----------
        positions : int Tensor [tokens]
            Any position, also beyond ``self.positions``.
        length : int or int Tensor [tokens], optional
            Tokens of the text that the rows belong to, one number or one for each; it matters where ``rope_grows``. By
            default the text ends with the last position.

        Notes
        -----
        Tables are computed once and looked up, except for the kinds that have frequencies for every length.
        """
        out = {}
        for kind in {block.rope_kind for block in self.blocks} - {None}:
            if self.rope_grows and grows(self.config, kind):
                if kind not in self._ropes:
                    rows = functools.partial(self._rope_rows, kind)
                    self._ropes[kind] = GrowingTable(self._rotary, self.config, kind, rows, self.device)
                out[kind] = self._ropes[kind](positions, length)
                continue
            needed = int(positions.max()) + 1
            if kind not in self._ropes or self._ropes[kind][0].shape[0] < needed:
                rows = max(1024, 2 ** (needed - 1).bit_length())
                self._ropes[kind] = self._rope_rows(kind, self._rotary, torch.arange(rows, device=self.device))
            cosine, sine = self._ropes[kind]
            out[kind] = cosine[positions], sine[positions]
        return out

    def unembed(self, x: Tensor) -> Tensor:
        """Next-token logits [..., vocabulary], in the model's dtype, from a residual stream [..., width]."""
        logits = self.multiply(self.final_norm(x), self.unembedding, self.unembedding_bias)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def _rope_rows(self, kind: str, rotary: nn.Module, positions: Tensor) -> Rope:
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        named = (kind,) if kind != "all" else ()
        cosine, sine = rotary(like, positions[None], *named)
        half = sine.shape[-1] // 2
        sine = torch.cat((-sine[..., :half], sine[..., half:]), -1)
        return cosine[0, :, None], sine[0, :, None]

    def _block(self, index: int, module: nn.Module) -> Block:
        family, config = self.family, self.config
        attention = attrgetter(family.attention)(module)
        heads = config.num_attention_heads
        sparse = family.experts is not None and hasattr(module.mlp, "experts")
        experts = _get(module, family.experts) if sparse else None
        query_key_value = _fused([_get(module, path) for path in family.query_key_value])
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        window = None
        if family.window is not None:
            window = getattr(attention if family.window == "attention" else config, "sliding_window", None)
        kinds = config.rope_parameters if family.rotary else {}
        layered = "rope_type" not in kinds and family.rotary is not None
        return Block(
            index=index,
            heads=heads,
            kv_heads=(query_key_value.weight.shape[0] // head_dim - heads) // 2,
            head_dim=head_dim,
            scale=float(attention.scaling),
            window=window,
            rope_kind=None if family.rotary is None else config.layer_types[index] if layered else "all",
            parallel=bool(family.parallel_residual and getattr(config, family.parallel_residual)),
            gated=family.gated,
            interleaved=family.interleaved,
            attention_norm=_norm(_get(module, family.attention_norm), config),
            attention_post_norm=_norm(_get(module, family.attention_post_norm), config),
            mlp_norm=_norm(_get(module, family.mlp_norm), config),
            mlp_post_norm=_norm(_get(module, family.mlp_post_norm), config),
            query_norm=_norm(_get(module, family.query_norm), config),
            key_norm=_norm(_get(module, family.key_norm), config),
            norm_over_all_heads=family.norm_over_all_heads,
            query_key_value=query_key_value,
            attention_output=_fused([_get(module, family.attention_output)]),
            up=None if experts is not None else _fused([_get(module, path) for path in family.up]),
            down=None if experts is not None else _fused([_get(module, family.down)]),
            router=None if experts is None else _router(_get(module, family.router), experts, config),
            activation=Activation(experts.act_fn if experts is not None else _get(module, family.activation)),
            multiply=self.multiply,
        )


def _get(module: nn.Module, path: str | None):
    return None if path is None else attrgetter(path)(module)


def _norm(module: nn.Module | None, config) -> Norm | None:
    if module is None:
        return None
    if isinstance(module, nn.LayerNorm):
        return Norm("layer", module.weight, module.bias, module.eps)
    eps = getattr(module, "variance_epsilon", None) or module.eps
    if config.model_type.startswith("gemma"):
        return Norm("rms", 1.0 + module.weight.detach().float(), None, eps, late_cast=True)
    late = config.model_type == "olmo2"
    return Norm("rms", module.weight, None, eps, late_cast=late)


def _fused(modules: list[nn.Module]) -> Projection:
    """One projection of several side by side; the modules' own parameters become views of it."""
    if len(modules) == 1:
        (module,) = modules
        if isinstance(module, nn.Linear):
            return Projection(module.weight, module.bias)
        # GPT-2 keeps [in, out]: the numbers are laid the other way round, and its parameter becomes a view of them.
        weight = module.weight.detach().t().contiguous()
        module.weight.data = weight.t()
        return Projection(weight, module.bias)
    bias = None if modules[0].bias is None else _joined([module.bias for module in modules])
    return Projection(_joined([module.weight for module in modules]), bias)


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


def _router(gate: nn.Module, experts: nn.Module, config) -> Router:
    return Router(
        weight=gate.weight,
        chosen=gate.top_k,
        normalised=getattr(gate, "norm_topk_prob", True),
        gate_up=experts.gate_up_proj,
        down=experts.down_proj,
    )

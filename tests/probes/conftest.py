"""What probes are judged against: whole activations taken from transformers' own forward, and one real text."""

import contextlib
from dataclasses import dataclass
from operator import attrgetter

import pytest
import torch
from torch import Tensor

TEXT = """The capital of France is Paris, and the river that runs through it is the Seine. In 1889 the Eiffel Tower was
opened for the world fair, and for forty years it was the tallest structure built by people. Water boils at one hundred
degrees Celsius at sea level, but on a high mountain it boils sooner because the air presses less on its surface. That
is why cooks who live in the mountains cook their beans for longer. Once upon a time there was a fox who lived in a
small wood near the sea. Every morning the fox went down to the beach to look for crabs, and every evening it came home
with sand in its fur."""


@dataclass
class Whole:
    """Everything a probe could want, unreduced, from the transformers model itself.

    Attributes
    ----------
    residuals : Tensor [layers + 1, tokens, width]
        Before the first block and after every block, never normed.
    attentions : Tensor [layers, heads, tokens, tokens]
    attention_outputs, mlp_outputs : Tensor [layers, tokens, width]
        What each sublayer adds.
    router_inputs : dict of int to Tensor [tokens, width]
    logits : Tensor [tokens, vocabulary]
    """

    residuals: Tensor
    attentions: Tensor
    attention_outputs: Tensor
    mlp_outputs: Tensor
    router_inputs: dict
    logits: Tensor


def first(output):
    """A module's main output, which some wrap in a tuple."""
    return output[0] if isinstance(output, tuple) else output


@contextlib.contextmanager
def eager(hf):
    """Attention as plain products, which hands out its weights."""
    before = hf.config._attn_implementation
    hf.set_attn_implementation("eager")
    try:
        yield
    finally:
        hf.set_attn_implementation(before)


@torch.no_grad()
def whole(model, ids) -> Whole:
    """Run the transformers model with hooks on its own modules."""
    hf, family = model.hf, model.anatomy.family
    residuals, attentions, attention_outputs, mlp_outputs, routers, handles = [], [], [], [], {}, []
    for index, block in enumerate(attrgetter(family.blocks)(hf)):
        dense_mlp = family.down if family.name == "opt" else "mlp"
        attention = attrgetter(family.attention)(block)
        added = attrgetter(family.attention_post_norm or family.attention)(block)
        mlp = attrgetter(family.mlp_post_norm or dense_mlp)(block)
        handles += [
            block.register_forward_hook(lambda _, args, kwargs, out: residuals.append(first(out)[0]), with_kwargs=True),
            attention.register_forward_hook(lambda _, args, out: attentions.append(out[1][0])),
            added.register_forward_hook(lambda _, args, out: attention_outputs.append(first(out)[0])),
            mlp.register_forward_hook(lambda _, args, out: mlp_outputs.append(first(out).reshape(len(ids), -1))),
        ]
        if family.router and hasattr(block.mlp, "experts"):
            gate = attrgetter(family.router)(block)
            handles.append(
                gate.register_forward_hook(
                    lambda _, args, out, index=index: routers.update({index: args[0].reshape(-1, args[0].shape[-1])})
                )
            )
    try:
        with eager(hf):
            out = hf(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return Whole(
        torch.stack([out.hidden_states[0][0], *residuals]),
        torch.stack(attentions),
        torch.stack(attention_outputs),
        torch.stack(mlp_outputs),
        routers,
        out.logits[0],
    )


@pytest.fixture(scope="session")
def look():
    """``look(model, ids)``: the :class:`Whole` of a forward pass."""
    return whole


@pytest.fixture(scope="session")
def text_ids():
    """Token ids for the tiny models, longer than their sliding windows."""
    return torch.randint(0, 96, (37,), generator=torch.Generator().manual_seed(5)).tolist()


@pytest.fixture(scope="session")
def seen(bundled):
    """The four probes that fit a dense model, on one real text through the bundled model."""
    from workbench import probes
    from workbench.studies.observe import observe

    wanted = [probes.LogitLens(), probes.AttentionSparsity(), probes.LayerSimilarity(), probes.ResidualContribution()]
    return observe(bundled, TEXT, wanted)

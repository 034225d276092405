"""Blocks less a sublayer give what zeros in its place give, in every family and pass, and neither run nor remember."""

import pytest
import torch
import xarray as xr
from helpers import random_tokens

from workbench.engine import Decoder
from workbench.errors import SettingError
from workbench.models import FAMILIES
from workbench.models.removed import without
from workbench.models.tiny import tiny
from workbench.probes import AttentionSparsity, DepthUse, EffectiveRank, ExitOracle, ResidualVelocity, TunedLens
from workbench.studies.observe import observe

PROMPT, DRAFT, TREE = random_tokens(20), [5, 6, 7, 8, 9], [-1, 0, 0, 1, 2]
GONE = {1: {"attention": True}, 2: {"mlp": True}, 3: {"attention": True, "mlp": True}}


def less(model, gone=GONE):
    blocks = model.anatomy.blocks
    return model.variant(replace={layer: without(blocks[layer], **parts) for layer, parts in gone.items()})


def zeroed(model):
    """The same model whose sublayers of ``GONE`` add zeros: what they multiply last is 0."""
    from workbench.models.variant import named_weights

    zeros = {}
    for name, tensor in named_weights(model.anatomy).items():
        layer, _, rest = name.removeprefix("layers.").partition(".")
        parts = GONE.get(int(layer), {}) if layer.isdigit() else {}
        attention = rest.startswith(("attention_output.", "attention_post_norm.")) and parts.get("attention")
        mlp = rest.startswith(("down.", "mlp_post_norm.", "shared.down.")) or (
            rest.startswith("router.experts") and ".down" in rest
        )
        if attention or (mlp and parts.get("mlp")):
            zeros[name] = torch.zeros_like(tensor)
    return model.variant(weights=zeros)


def passes(model, **policies):
    decoder = Decoder(model, 8, policies)
    found = [decoder.prefill(PROMPT, 9, "all"), decoder.forward([4]), decoder.forward(DRAFT, TREE, "all")]
    decoder.commit(5, [0, 2, 4])
    opened = decoder.open([3])
    opened.run(2)
    opened.more([8])
    return decoder, [*found, opened.finish("all"), decoder.forward(random_tokens(6), logits="all")]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sublayer_that_is_gone_adds_zeros(family):
    model = tiny(family)
    (mine, found), (_, expected) = passes(less(model)), passes(zeroed(model))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert 3 not in mine.layers_run and {0, 1, 2} <= set(mine.layers_run)
    kept = mine.cache.keys_kept()
    assert kept[0] == kept[2] == mine.cache.length and kept[1] == kept[3] == 0
    assert mine.cache.layers[1].bytes == mine.cache.layers[3].bytes == 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mixtral"])
def test_what_is_gone_is_not_counted(family):
    model = tiny(family)
    cost = {}
    for name, gone in {"all": {}, "attention": {1: GONE[1]}, "mlp": {1: GONE[2]}, "block": {1: GONE[3]}}.items():
        decoder = Decoder(less(model, gone), 8)
        decoder.prefill(PROMPT)
        decoder.reset_counts()
        decoder.forward([4])
        cost[name] = torch.tensor([decoder.flops, decoder.bytes])
    spared = {name: (cost["all"] - each).tolist() for name, each in cost.items()}
    assert [a + b for a, b in zip(spared["attention"], spared["mlp"])] == spared["block"]
    block = model.anatomy.blocks[1]
    size = block.heads * block.head_dim
    attention = block.query_key_value.flops(1) + block.attention_output.flops(1) + 4 * 21 * size
    moved = block.query_key_value.bytes(1) + block.attention_output.bytes(1)
    assert spared["attention"] == [attention, moved + 22 * 4 * 2 * block.kv_heads * block.head_dim]
    if block.router is None:
        assert spared["mlp"] == [block.up.flops(1) + block.down.flops(1), block.up.bytes(1) + block.down.bytes(1)]


class All:
    """A policy of the slot depth that runs everything, and notes what it was asked."""

    def __init__(self, skipped=()):
        self.asked, self._skipped = [], skipped

    def next_layer(self, layer, x):
        self.asked.append(layer)
        following = layer + 1
        while following in self._skipped:
            following += 1
        return following if following < 5 else None


def test_a_depth_policy_is_asked_as_if_the_block_had_run():
    model = tiny("llama", layers=5)
    both = {"attention": True, "mlp": True}
    policy = All(skipped=(2,))
    decoder = Decoder(less(model, {1: both, 3: both}), 8, {"depth": policy})
    decoder.prefill(PROMPT)
    assert decoder.layers_run == [0, 4] and policy.asked == [-1, 0, 1, 3, 4]


def test_first_and_last_block_may_be_gone():
    model, both = tiny("llama"), {"attention": True, "mlp": True}
    decoder, cut = Decoder(less(model, {0: both, 3: both}), 8), Decoder(model.variant([1, 2]), 8)
    for tokens in (PROMPT, [4]):
        torch.testing.assert_close(decoder.forward(tokens), cut.forward(tokens))
    assert decoder.flops == cut.flops and decoder.bytes == cut.bytes


def test_there_is_nothing_to_fill_where_nothing_attends():
    decoder = Decoder(less(tiny("llama")), 8)
    opened = decoder.open(PROMPT)
    opened.run(1)
    opened.exit()
    opened.fill(range(1, 4))
    opened.finish()
    assert decoder.cache.keys_kept() == (len(PROMPT), 0, len(PROMPT), 0)


def test_a_cache_is_cropped_whatever_its_layers_lack():
    model = less(tiny("llama"))
    decoder, other = Decoder(model, 8), Decoder(model, 8)
    decoder.prefill([*PROMPT, 7, 8])
    assert decoder.cache.crop_to(len(PROMPT)) == len(PROMPT)
    other.prefill(PROMPT)
    torch.testing.assert_close(decoder.forward([4]), other.forward([4]))


def test_a_block_that_is_gone_shows_the_stream_that_passes_it():
    model, seen = tiny("llama"), []
    cut = less(model, {layer: {"attention": True, "mlp": True} for layer in (0, 2, 3)})
    Decoder(cut, watch=lambda site, layer, x: seen.append((site, layer, x))).prefill(PROMPT)
    streams = [(layer, x) for site, layer, x in seen if site in ("embedding", "residual")]
    assert [layer for layer, _ in streams] == [-1, 0, 1, 2, 3]
    embedding, first, second, *others = (x for _, x in streams)
    assert torch.equal(embedding, first) and not torch.equal(first, second)
    assert all(torch.equal(second, x) for x in others)


def test_probes_read_a_model_less_some_blocks_as_one_whose_blocks_add_zeros():
    model = tiny("llama")
    probes = [TunedLens(lens="untrained"), ExitOracle(lens="logit"), ResidualVelocity(), EffectiveRank(), DepthUse()]
    found, expected = (observe(each, PROMPT, probes) for each in (less(model), zeroed(model)))
    for probe in probes:
        one, other = (each[f"probes/{probe.name}"].to_dataset() for each in (found, expected))
        xr.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(SettingError, match=r"layers \[1, 3\] of .* have no attention"):
        observe(less(model), PROMPT, [AttentionSparsity()])

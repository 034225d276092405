"""A view of a model: what is named is other, the rest is shared, and the model stays as it is."""

import dataclasses
import threading

import pytest
import torch

from workbench.engine import Decoder, generate
from workbench.errors import PromptError, SettingError
from workbench.models import FAMILIES, fingerprint
from workbench.models.projection import Projection
from workbench.models.tiny import tiny
from workbench.models.variant import leaves, named_weights, parts, rebuilt

PROMPT = list(range(3, 23))


def logits(model):
    return Decoder(model).forward(PROMPT, logits="all")


@pytest.mark.parametrize("family", FAMILIES)
def test_without_changes_it_says_the_same(family):
    model = tiny(family)
    view = model.variant()
    assert torch.equal(logits(view), logits(model)) and view.name == model.name and view.proof == model.proof


def test_what_a_forward_changes_is_its_own_and_the_rest_is_shared():
    model = tiny("llama").shallow(2)
    model.anatomy.rope(torch.tensor([3]))
    view = model.variant()
    assert model.anatomy._ropes and view.anatomy._ropes == {}
    assert model.anatomy.blocks[0] is not view.anatomy.blocks[0]
    for name, weight in named_weights(model.anatomy).items():
        assert named_weights(view.anatomy)[name] is weight


def test_views_run_beside_one_another():
    """Tables grow while the other reads them, if they are shared."""
    model = tiny("phi3").variant()
    expected = logits(model.variant())
    views, found = [model, *(model.variant() for _ in range(3))], [None] * 4
    barrier = threading.Barrier(4)

    def run(place):
        barrier.wait()
        with torch.inference_mode():
            for position in range(0, 20_000, 2_500):
                views[place].anatomy.rope(torch.tensor([position]))
        found[place] = logits(views[place])

    threads = [threading.Thread(target=run, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(each, expected) for each in found)


def test_blocks_are_taken_in_the_order_given_and_numbered_anew():
    model = tiny("llama")
    view = model.variant([3, 0, 0])
    assert [block.index for block in view.anatomy.blocks] == [0, 1, 2] and view.layers == 3
    assert [block.index for block in model.anatomy.blocks] == [0, 1, 2, 3]
    assert view.name == "tiny-llama layers 3,0,0" and view.proof == {} and not view.changed
    for block, layer in zip(view.anatomy.blocks, (3, 0, 0)):
        assert block.up is model.anatomy.blocks[layer].up
    assert torch.equal(logits(model.variant(range(2))), logits(model.variant([0, 1], name="lower")))
    assert not torch.equal(logits(view), logits(model.variant([0, 3, 0])))


def test_a_block_that_is_replaced_is_one_of_the_view_alone():
    model = tiny("llama")
    before, block = logits(model), model.anatomy.blocks[1]
    double = dataclasses.replace(block, down=Projection(2 * block.down.weight))
    view = model.variant([1, 2, 1], replace={2: double})
    assert view.changed and view.anatomy.blocks[0].down is block.down and view.name == "tiny-llama layers 1,2,1 variant"
    assert view.anatomy.blocks[2].down.weight is double.down.weight and view.anatomy.blocks[2].index == 2
    assert double.index == 1 and model.anatomy.blocks[1] is block
    assert not torch.equal(logits(view), logits(model.variant([1, 2, 1])))
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_has_a_name_and_can_be_another(family):
    """Doubling a weight by its name is doubling it in place."""
    model = tiny(family)
    before, named = logits(model), named_weights(model.anatomy)
    own = {parameter.data_ptr() for parameter in model.hf.parameters()}
    missing = own - {tensor.data_ptr() for tensor in named.values()}
    tables = {module.weight.data_ptr() for module in model.hf.modules() if isinstance(module, torch.nn.Embedding)}
    # Parameters that a joined tensor holds behind its first, and Gemma's norms, which are kept with one added.
    spans = [(tensor.data_ptr(), tensor.data_ptr() + 4 * tensor.numel()) for tensor in named.values()]
    one_plus = {p.data_ptr() for name, p in model.hf.named_parameters() if "norm" in name and "gemma" in family}
    alone = {each for each in missing - tables - one_plus if not any(start <= each < end for start, end in spans)}
    assert not alone
    # Phi's two norms of a layer are one parameter with two names, which only a view can set apart.
    places = [tensor.data_ptr() for tensor in named.values()]
    once = [name for name in named if places.count(named[name].data_ptr()) == 1]
    for name in once[:: max(1, len(once) // 12)]:
        view = model.variant(weights={name: 2 * named[name]})
        seen = logits(view)
        assert torch.equal(logits(model), before) and view.changed, name
        with torch.no_grad():
            kept = named[name].clone()
            named[name].mul_(2)
            try:
                assert torch.equal(seen, logits(model)), name
            finally:
                named[name].copy_(kept)


def test_names_are_those_of_stored_parts():
    """They stand in the files of trained draft models."""
    names = set(named_weights(tiny("llama").anatomy))
    layer = {"query_key_value.weight", "attention_output.weight", "up.weight", "down.weight"}
    layer |= {"attention_norm.weight", "mlp_norm.weight"}
    assert names == {f"layers.{i}.{name}" for i in range(4) for name in layer} | {"final_norm.weight", "head.weight"}
    assert "layers.1.scoring.sinks" in named_weights(tiny("gpt_oss").anatomy)
    assert "layers.0.router.experts.3.down.weight" in named_weights(tiny("mixtral").anatomy)


def test_a_draft_vocabulary_is_the_rows_of_these_tokens():
    model, kept = tiny("phi"), torch.arange(5, 96, 3)
    view = model.variant(draft_vocabulary=kept)
    torch.testing.assert_close(logits(view), logits(model)[:, kept])
    assert view.draft_vocabulary is kept and view.changed and model.draft_vocabulary is None
    assert view.variant(range(2)).draft_vocabulary is kept
    assert view.variant(device="meta").draft_vocabulary.device.type == "meta"


@pytest.mark.parametrize("family", FAMILIES)
def test_elsewhere_every_weight_is_copied(family):
    """The device without memory takes all of it and computes shapes."""
    model = tiny(family)
    view = model.variant(device="meta")
    assert view.device.type == "meta" and not view.changed
    assert all(weight.device.type == "meta" for weight in named_weights(view.anatomy).values())
    assert view.anatomy._embedding.weight.device.type == "meta"
    multiplies = {value for _, value in leaves(parts(view.anatomy)) if type(value).__name__ == "Multiply"}
    assert multiplies == {view.anatomy.multiply} and view.anatomy.multiply is not model.anatomy.multiply
    assert all(weight.device.type == "cpu" for weight in named_weights(model.anatomy).values())
    assert model.anatomy._embedding.weight.device.type == "cpu"


def test_moving_copies_within_containers_and_leaves_what_is_no_tensor():
    norm = tiny("llama").anatomy.final_norm
    meta = torch.device("meta")

    def moved(_, part):
        return part.to(meta) if isinstance(part, torch.Tensor) else part

    (other,) = rebuilt([norm], moved)
    assert other.weight.device == meta and other.kind == norm.kind and other.eps == norm.eps
    assert rebuilt(None, moved) is None
    nothing = [norm]
    assert rebuilt(nothing, lambda _, part: part) is nothing, "what does not change is shared"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cuda:77"}, "there is no device"),
        ({"device": "nonsense"}, "there is no device"),
        ({"blocks": [0, 4]}, "there is no layer 4 among the 4"),
        ({"blocks": [-1]}, "there is no layer -1"),
        ({"replace": {2: None}, "blocks": [0, 1]}, "there is no block 2"),
        ({"replace": {2: tiny("llama").anatomy.blocks[2].mixer}}, "replaced by a Block, not by Attention"),
        ({"draft_vocabulary": torch.tensor([3, 96])}, r"take 0 … 95"),
        ({"draft_vocabulary": torch.tensor([], dtype=torch.long)}, r"take 0 … 95"),
        ({"weights": {"layers.0.up": torch.zeros(1)}}, r"there is no weight 'layers\.0\.up'.*named layers\.0"),
        ({"weights": {"final_norm.weight": torch.zeros(31)}}, r"final_norm.weight has shape \[32\], not \[31\]"),
    ],
)
def test_what_is_not_there_is_refused(settings, words):
    with pytest.raises(SettingError, match=words):
        tiny("llama").variant(**settings)


def test_a_view_with_other_weights_has_a_fingerprint_of_its_own():
    model = tiny("qwen2_moe")
    whole = fingerprint.of_model(model)
    weight = named_weights(model.anatomy)["layers.0.router.experts.1.down.weight"]
    name = "layers.0.router.experts.1.down.weight"
    one, same, other = (model.variant(weights={name: each}) for each in (2 * weight, weight * 2, 3 * weight))
    assert fingerprint.of_model(one) == fingerprint.of_model(same)
    assert len({whole, fingerprint.of_model(one), fingerprint.of_model(other)}) == 3
    assert fingerprint.of_model(model.variant([0, 1])) == fingerprint.of_model(model.variant()) == whole
    block = model.anatomy.blocks[2]
    scaled = dataclasses.replace(block, residual_multiplier=0.5)
    assert fingerprint.of_model(model.variant(replace={2: scaled})) not in (whole, fingerprint.of_model(one))


def test_a_state_goes_on_with_the_view_that_made_it_alone():
    model = tiny("llama")
    weight = named_weights(model.anatomy)["layers.1.down.weight"]
    views = [model.variant(weights={"layers.1.down.weight": factor * weight}) for factor in (2, 3)]
    views += [model.variant([0, 1, 2]), model.variant([0, 2, 1])]
    for place, view in enumerate(views):
        stream = generate(view, PROMPT, max_new_tokens=3, stop_tokens=())
        assert len(list(stream)) == 3
        assert len(list(generate(view, [5], max_new_tokens=2, stop_tokens=(), past=stream.state))) == 2
        for other in [model, *views[:place], *views[place + 1 :]]:
            with pytest.raises(PromptError, match="cannot go on with"):
                generate(other, [5], past=stream.state)

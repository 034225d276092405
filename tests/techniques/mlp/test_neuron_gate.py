"""The neurons that run are those predicted, row by row; the predictor learns them, is counted, and pays for itself."""

import dataclasses

import pytest
import torch
from helpers import random_tokens, run, tokens_of
from safetensors.torch import load_file

from workbench import artifacts
from workbench.engine import teacher_force
from workbench.engine.decoder import Decoder
from workbench.errors import ArtifactError, SettingError
from workbench.models.tiny import tiny
from workbench.parts.neuron_predictor import firing, predictor_maps, read_of, top_of_mass
from workbench.techniques import NeuronGate, PromptLookup
from workbench.training import train
from workbench.training.data import DataSettings
from workbench.training.writing import write_texts

PROMPT = tuple(random_tokens(24) * 2)
UNTRAINED = NeuronGate(weights="untrained")


def slow_mass(row, mass):
    """One neuron after the other, strongest first, until they hold the mass."""
    chosen, held = set(), 0.0
    for place in sorted(range(len(row)), key=lambda i: -row[i]):
        if held >= mass * sum(row):
            break
        chosen.add(place)
        held += row[place]
    return [place in chosen for place in range(len(row))]


def test_the_mask_is_the_fewest_neurons_that_hold_the_mass():
    strength = torch.rand(7, 20, generator=torch.Generator().manual_seed(1)) ** 4
    for mass in (0.2, 0.7, 0.95):
        assert top_of_mass(strength.double(), mass).tolist() == [
            slow_mass(row, mass) for row in strength.double().tolist()
        ]
    few = torch.tensor([[9.0, 0.5, 0.5, 0.0], [1.0, 1.0, 1.0, 0.0]])
    assert top_of_mass(few, 0.6).sum(-1).tolist() == [1, 2], "k follows from each row"


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "gpt_neox"])
def test_a_row_is_what_the_predicted_neurons_alone_add(family):
    """Slowly: weights of the neurons that are not predicted are set to zero, for each row by itself."""
    model = tiny(family)
    policy = UNTRAINED.start(_Run(model))
    maps = predictor_maps(model, "untrained")
    block = model.anatomy.blocks[1]
    x = torch.randn(5, model.anatomy.width, generator=torch.Generator().manual_seed(2))
    mask = policy.neurons(block, x)
    assert mask.any() and not mask.all() and len(set(mask.sum(-1).tolist())) > 1
    for row, chosen in zip(x, mask, strict=True):
        normed = read_of(block, row[None])
        narrow, wide = maps[1]
        inside = narrow.weight @ normed[0] + narrow.bias
        odds = wide.weight @ (inside * inside.sigmoid()) + wide.bias
        assert torch.equal(odds.sigmoid() > 0.5, chosen)
        inner = block.activation(block.up(normed), block.gated) * chosen
        want = block.added(block.down(inner), block.mlp_post_norm)
        found = block.mlp_sublayer(row[None, None], choose=_Fixed(chosen[None]))
        torch.testing.assert_close(found[0], want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(firing(block, normed) * ~chosen + inner.abs(), firing(block, normed))


class _Fixed:
    def __init__(self, mask):
        self.mask = mask

    def neurons(self, x):
        return self.mask


class _Run:
    def __init__(self, model):
        from workbench.engine.ledger import Ledger

        self.model, self.ledger = model, Ledger()


def test_what_is_left_out_is_not_counted_and_the_predictor_is():
    model, rows = tiny("llama"), 3
    policy = UNTRAINED.start(_Run(model))
    masks = []

    class Seen:
        def neurons(self, block, x):
            masks.append(policy.neurons(block, x))
            return masks[-1]

    plain, gated = Decoder(model), Decoder(model, 0, {"mlp": Seen()})
    tokens = list(PROMPT[:rows])
    plain.forward(tokens)
    gated.forward(tokens)
    block = model.anatomy.blocks[0]
    each = block.up.weight.numel() // block.down.weight.shape[1]
    unread = sum(int((~mask.any(0)).sum()) for mask in masks)
    assert all(mask.any(1).all() for mask in masks)
    assert plain.flops - gated.flops == 2 * each * rows * unread > 0
    assert plain.bytes - gated.bytes == each * 4 * unread
    step, reference = (run(model, PROMPT, techniques, 4)[-1] for techniques in ([UNTRAINED], []))
    width, neurons, rank = 32, block.down.weight.shape[1], 64
    assert step.policy_flops == model.layers * 2 * rank * (width + neurons)
    assert step.policy_bytes == model.layers * 4 * rank * (width + neurons)
    assert step.flops - step.policy_flops < reference.flops


def test_drafts_change_nothing():
    """Verified tokens have the neurons that they would have had alone."""
    model = tiny("llama")
    alone = run(model, PROMPT, [UNTRAINED])
    drafted = run(model, PROMPT, [UNTRAINED, PromptLookup(ngram=1)])
    assert tokens_of(alone) == tokens_of(drafted) != tokens_of(run(model, PROMPT))
    assert any(step.drafted for step in drafted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_is_the_same_bit_for_bit_whatever_rows_are_beside_it(dtype):
    model = tiny("llama", dtype=dtype)
    if not model.anatomy.multiply.compiled:
        pytest.skip(f"products of {dtype} are torch's here, whose sums hang on the number of rows")
    block, policy = model.anatomy.blocks[2], UNTRAINED.start(_Run(model))
    x = torch.randn(1, 7, 32, generator=torch.Generator().manual_seed(3)).to(dtype)
    with torch.inference_mode():
        together = block.mlp_sublayer(x, choose=_Of(policy, block))
        for row in range(7):
            alone = block.mlp_sublayer(x[:, row : row + 1], choose=_Of(policy, block))
            assert torch.equal(alone[0, 0], together[0, row])


class _Of:
    def __init__(self, policy, block):
        self.neurons = lambda x: policy.neurons(block, x)


def test_a_higher_chance_runs_fewer_neurons():
    model = tiny("llama")
    spent = [run(model, PROMPT, [NeuronGate(chance=chance, weights="untrained")], 3)[-1].flops
             for chance in (0.4, 0.5, 0.6)]  # fmt: skip
    assert spent[0] > spent[1] > spent[2]


def test_models_of_experts_alone_and_foreign_parts_are_refused(tmp_path):
    with pytest.raises(SettingError, match="tiny-mixtral has no dense MLP"):
        run_unskipped(tiny("mixtral"), UNTRAINED)
    weights = str(tmp_path / "neuron_gate.safetensors")
    train("neuron_gate", tiny("gpt2"), tmp_path, texts(tiny("gpt2")), steps=1, rank=4, batch=2, length=24, rows=8)
    with pytest.raises(ArtifactError, match="trained for tiny-gpt2, not for tiny-llama"):
        run_unskipped(tiny("llama"), NeuronGate(weights=weights))
    deeper = dataclasses.replace(tiny("gpt2").variant([0, 1, 0, 1, 0, 1]), name="tiny-gpt2")
    with pytest.raises(ArtifactError, match="does not fit"):
        run_unskipped(deeper, NeuronGate(weights=weights))
    whole = {name: tensor.long() for name, tensor in load_file(weights).items()}
    artifacts.save("neuron_gate", whole, {"model": {"name": "tiny-gpt2"}}, tmp_path)
    with pytest.raises(ArtifactError, match="does not fit"):
        run_unskipped(tiny("gpt2"), NeuronGate(weights=weights))


def texts(model):
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(3, 96, (8,), generator=generator).tolist() for _ in range(12)]
    return write_texts(model, prompts, prompts, DataSettings(new_tokens=24, length=40, sampled=1, continued=0))


def run_unskipped(model, technique):
    from workbench.engine import generate

    next(generate(model, PROMPT, [technique], max_new_tokens=2))


def test_a_trained_predictor_beats_an_untrained_one(tmp_path):
    """On a tiny model: with fewer neurons its distributions are nearer the model's own."""
    model = tiny("llama")
    learned = {"steps": 200, "rank": 32, "batch": 8, "length": 40, "rows": 256, "mass": 0.8}
    card = train("neuron_gate", model, tmp_path, texts(model), **learned)
    curve, result = card["curve"]["held_out_accuracy"], card["result"]
    assert curve[-1] > curve[0] + 0.15 and result["held_out_mass_kept"] > 2 * result["held_out_kept"]
    said = random_tokens(8, seed=5)
    plain = torch.cat(list(teacher_force(model, PROMPT, said))).log_softmax(-1)
    losses, spent = [], []
    for weights in ("untrained", str(tmp_path / "neuron_gate.safetensors")):
        rows = torch.cat(list(teacher_force(model, PROMPT, said, [NeuronGate(weights=weights)])))
        losses.append(float((plain.exp() * (plain - rows.log_softmax(-1))).sum(-1).mean()))
        spent.append(run(model, PROMPT, [NeuronGate(weights=weights)], 3)[-1].flops)
    assert losses[1] < 0.75 * losses[0] and spent[1] < spent[0]


class _AsManyOthers:
    """As many neurons for each row as a gate would run, but any."""

    def __init__(self, gate):
        self._gate, self._generator = gate, torch.Generator().manual_seed(0)

    def neurons(self, block, x):
        mask = self._gate.neurons(block, x)
        order = torch.rand(mask.shape, generator=self._generator).argsort(-1)
        return torch.zeros_like(mask).scatter_(-1, order, torch.arange(mask.shape[1]) < mask.sum(-1, keepdim=True))


@pytest.mark.bundled(seconds=6)
def test_the_predicted_neurons_of_the_bundled_model_are_the_right_ones(bundled):
    """The same number of neurons drawn by chance leaves the text far behind."""
    if not artifacts.place("neuron_gate").is_file():
        pytest.skip("no predictor has been trained for the bundled model yet: workbench train neuron_gate")
    text = bundled.encode(
        "The capital of France is Paris, and the river that runs through it is the Seine. In 1889 the Eiffel Tower "
        "was opened for the world fair, and for forty years it was the tallest."
    )

    def loss(policies):
        rows = Decoder(bundled, 0, policies).prefill(text, logits="all")
        return float(torch.nn.functional.cross_entropy(rows[:-1].float(), torch.tensor(text[1:])))

    gate = NeuronGate(chance=0.35).start(_Run(bundled))
    full, gated, others = loss({}), loss({"mlp": gate}), loss({"mlp": _AsManyOthers(gate)})
    assert full < gated < others - 1, (full, gated, others)

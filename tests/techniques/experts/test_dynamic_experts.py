"""A token has as many experts as its router needs: against the papers' formulas, row by row, and by what is counted."""

import copy

import pytest
import torch
from helpers import random_tokens

from workbench.engine import Decoder, generate
from workbench.engine.ledger import Ledger
from workbench.errors import SettingError
from workbench.models.load import wrap
from workbench.models.tiny import tiny
from workbench.techniques import DynamicExperts

FAMILIES = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "gpt_oss")
PROMPT = tuple(random_tokens(24) * 2)


class Run:
    def __init__(self, model):
        self.model, self.ledger = model, Ledger()


def block_of(model):
    return next(block for block in model.anatomy.blocks if block.router is not None)


def slow(logits, own, normalised, mass, threshold, most):
    """Expert -> weight of one token, one expert after the other."""
    probability = [float(each) for each in logits.double().softmax(-1)]
    order = sorted(range(len(probability)), key=lambda expert: -probability[expert])
    chosen, held = {}, 0.0
    for expert in order[: most or own]:
        if chosen and (held >= mass or probability[expert] < threshold * probability[order[0]]):
            break
        chosen[expert] = probability[expert]
        held += probability[expert]
    whole = sum(chosen.values()) if normalised else 1.0
    return {expert: weight / whole for expert, weight in chosen.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("mass", "threshold", "most"), [(0.5, 0.0, 0), (0.9, 0.0, 8), (0.7, 0.3, 5), (1.0, 0.4, 8), (1.0, 0.0, 8)]
)
def test_the_experts_are_those_of_the_formula_row_by_row(family, mass, threshold, most):
    model = tiny(family)
    block, width = block_of(model), model.anatomy.width
    policy = DynamicExperts(mass=mass, threshold=threshold, most=most).start(Run(model))
    x = torch.randn(9, width, generator=torch.Generator().manual_seed(3))
    normed = x if block.mlp_norm is None else block.mlp_norm(x)
    logits, router = block.router.scores(normed), block.router
    weights, indices = policy.choose_experts(block, x, logits)
    want = [slow(row, router.chosen, router.normalised, mass, threshold, most) for row in logits]
    if threshold > 0 or mass < 1:
        assert len({len(each) for each in want}) > 1, "nothing is shown where all rows have as many"
    for row, due in enumerate(want):
        pairs = zip(indices[row].tolist(), weights[row].tolist(), strict=True)
        found = {expert: weight for expert, weight in pairs if expert < len(router.experts)}
        assert found == pytest.approx(due, rel=1e-4)
    # And what the block makes of them is the sum over just these.
    out = block.mlp_sublayer(x[None], choose=Chosen(block, policy))[0]
    for row, due in enumerate(want):
        parts = [
            weight * router.experts[expert](normed[row : row + 1], block.activation) for expert, weight in due.items()
        ]
        shared = 0 if block.shared is None else block.shared(normed[row : row + 1], block.activation)
        torch.testing.assert_close(
            out[row : row + 1], block.added(sum(parts) + shared, block.mlp_post_norm), rtol=1e-3, atol=1e-4
        )


class Chosen:
    own = True

    def __init__(self, block, policy):
        self._block, self._policy = block, policy

    def experts(self, x, logits):
        return self._policy.choose_experts(self._block, x, logits)

    def fetch(self, expert):
        return self._block.router.experts[expert]


def test_what_is_counted_is_what_ran():
    """By hand: of a pass of several rows, every row's own experts in operations and those of any row in bytes."""
    model = tiny("olmoe")
    technique = DynamicExperts(mass=0.6, most=6)
    policy = technique.start(Run(model))
    plain, few = Decoder(model), Decoder(model, policies={"experts": policy})
    assigned, different = [], []
    choose = policy.choose_experts

    def noting(block, x, logits):
        weights, indices = choose(block, x, logits)
        kept = indices[indices < len(block.router.experts)]
        assigned.append(len(kept))
        different.append(len(kept.unique()))
        return weights, indices

    policy.choose_experts = noting
    for decoder in (plain, few):
        decoder.prefill(PROMPT)
        decoder.reset_counts()
    assigned.clear(), different.clear()
    rows = [5, 9, 11, 60]
    plain.forward(rows), few.forward(rows)
    expert, layers = block_of(model).router.experts[0], len(different)
    own = len(rows) * layers * block_of(model).router.chosen
    assert sum(assigned) % layers or len(set(assigned)) > 1, "rows must differ"
    assert few.experts_run == different
    assert few.flops == plain.flops + (sum(assigned) - own) * expert.flops(1)
    assert few.bytes == plain.bytes + (sum(different) - sum(plain.experts_run)) * expert.bytes(len(rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_verified_tokens_have_the_experts_they_are_decoded_with(family):
    """Rows of one pass are what passes of one row are, though they have different numbers of experts."""
    model = tiny(family)
    rows, together, alone = (
        [5, 9, 11, 60, 17],
        *(Decoder(model, policies={"experts": DynamicExperts(mass=0.7, most=6).start(Run(model))}) for _ in range(2)),
    )
    for decoder in (together, alone):
        decoder.prefill(PROMPT)
    found = together.forward(rows, logits="all")
    one_by_one = torch.cat([alone.forward([row]) for row in rows], -2)
    torch.testing.assert_close(found, one_by_one, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.argmax(-1), one_by_one.argmax(-1))


def test_more_mass_means_more_experts_up_to_all():
    model = tiny("qwen3_moe")
    counts = []
    for mass in (0.01, 0.4, 0.7, 0.95, 1.0):
        steps = list(generate(model, PROMPT, [DynamicExperts(mass=mass, most=8)], max_new_tokens=8, stop_tokens=()))
        counts.append(sum(sum(step.experts) for step in steps[1:]))
    sparse = sum(block.router is not None for block in model.anatomy.blocks)
    assert counts[0] == 7 * sparse and counts[-1] == 7 * sparse * 8
    assert counts == sorted(counts) and len(set(counts)) == len(counts)


def test_small_logits_are_measured_as_large_as_the_configuration_says():
    """A router scaled down keeps its order and says nothing of mass, until the scale is undone."""
    own = tiny("qwen2_moe")
    hf = copy.deepcopy(own.hf)
    for block in hf.model.layers:
        if hasattr(block.mlp, "gate") and hasattr(block.mlp, "experts"):
            block.mlp.gate.weight.data *= 2**-10
    with torch.no_grad():
        scaled = wrap(hf, None, "scaled")
    x = torch.randn(6, own.anatomy.width, generator=torch.Generator().manual_seed(4))

    def numbers(model, **given):
        block = block_of(model)
        policy = DynamicExperts(mass=0.6, most=8, **given).start(Run(model))
        _, indices = policy.choose_experts(block, x, block.router.scores(block.mlp_norm(x)))
        return [{expert for expert in row if expert < 8} for row in indices.tolist()]

    want = numbers(own)
    assert [len(each) for each in numbers(scaled)] == [5] * 6, "flat: five of eight hold 0.6"
    assert numbers(scaled, sharpness=2**10) == want
    hf.config.router_scale = 2**-10
    assert numbers(scaled) == want


def test_what_has_no_experts_or_too_few_is_refused_with_a_reason():
    with pytest.raises(SettingError, match=r"needs a mixture-of-experts model \(smollm2-moe.*dense Llama"):
        next(generate(tiny("llama"), PROMPT, [DynamicExperts()], max_new_tokens=1))
    with pytest.raises(SettingError, match=r"has 8 experts, so most is 0 … 8, not 9"):
        next(generate(tiny("mixtral"), PROMPT, [DynamicExperts(most=9)], max_new_tokens=1))

"""Every slot is asked where it decides, with what it needs to decide, and what it says is done and counted."""

from dataclasses import replace

import pytest
import torch
from engine.given import Given
from helpers import random_tokens, tokens_of

from workbench.engine import SLOTS, Decoder, generate, teacher_force
from workbench.engine.mlp_choice import MlpChoice
from workbench.errors import SettingError
from workbench.models.projection import Projection
from workbench.models.tiny import tiny
from workbench.techniques import PromptLookup

PROMPT = random_tokens(12) * 2
# Gated; with biases and not gated; a norm after the sublayer; beside the attention; sparse with one dense layer.
DENSE = ("llama", "gpt2", "gemma2", "gpt_neox", "qwen3_moe")


def steps_of(model, techniques=(), new=16, prompt=PROMPT, **options):
    return list(generate(model, prompt, list(techniques), max_new_tokens=new, stop_tokens=(), **options))


# mlp


class Neurons:
    """``choose(block, x)`` given by the test, and which layers were asked."""

    def __init__(self, choose):
        self._choose, self.asked = choose, []

    def neurons(self, block, x):
        self.asked.append((block.index, len(x)))
        return self._choose(block, x)


def dense(model):
    return [block for block in model.anatomy.blocks if block.router is None]


def width(block):
    return block.down.weight.shape[1]


def every_third(block, x):
    return torch.arange(0, width(block), 3)


def by_row(block, x):
    """Neurons that hang on the row alone; some rows have none."""
    mask = torch.outer(x[:, 0], torch.linspace(-1, 1, width(block))) > 0
    return mask & (x[:, 1:2] > -0.5)


@pytest.mark.parametrize("family", DENSE)
def test_left_out_neurons_are_those_whose_output_weights_are_zero(family, monkeypatch):
    model, policy = tiny(family), Neurons(every_third)
    chosen = Decoder(model, 0, {"mlp": policy})
    rows = chosen.prefill(PROMPT, logits="all")
    assert policy.asked == [(block.index, len(PROMPT)) for block in dense(model)]
    for block in dense(model):
        weight = torch.zeros_like(block.down.weight)
        weight[:, ::3] = block.down.weight[:, ::3]
        monkeypatch.setattr(block, "down", Projection(weight, block.down.bias))
    zeroed = Decoder(model)
    torch.testing.assert_close(rows, zeroed.prefill(PROMPT, logits="all"), rtol=1e-4, atol=1e-4)
    for block in dense(model):
        spared = width(block) - len(every_third(block, rows))
        each = (block.up.weight.numel() + block.down.weight.numel()) // width(block)
        zeroed.ledger.count("model", -2 * each * spared * len(PROMPT), -4 * each * spared)
    assert (chosen.flops, chosen.bytes) == (zeroed.flops, zeroed.bytes)


@pytest.mark.parametrize("family", DENSE)
def test_each_row_has_its_own_neurons_and_a_row_without_any_leaves_the_sublayer_out(family):
    model = tiny(family)
    block, x = dense(model)[0], torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(4))
    mask = by_row(block, x[0])
    assert mask.any(1).any() and not mask.any(1).all(), "some rows must have neurons, and some none"
    attended = torch.zeros(1, block.heads, 9, block.head_dim)
    seen = {}
    block.leave(x, attended, lambda site, value: seen.setdefault(site, value), _Only(by_row, block))
    for row in range(9):
        middle = x[:, row : row + 1]
        if not block.parallel:
            middle = middle + block.attention_sublayer(attended[:, :, row : row + 1])
        # ``by_row`` reads the residual stream that the sublayer reads.
        run = by_row(block, middle[0])[0].nonzero()[:, 0]
        alone = block.mlp_sublayer(middle, choose=_Only(lambda *_, run=run: run, block))
        torch.testing.assert_close(seen["mlp_output"][:, row : row + 1], alone, rtol=1e-4, atol=1e-5)
        assert len(run) or not alone.any()


class _Only:
    """The part of a :class:`workbench.models.block.Choice` that a dense block asks."""

    def __init__(self, choose, block):
        self._choose, self._block = choose, block

    def neurons(self, x):
        return self._choose(self._block, x)


@pytest.mark.parametrize("compiled", [False, True])
def test_drafts_change_nothing_where_each_row_is_chosen_for_by_itself(compiled):
    model = tiny("llama")
    alone = steps_of(model, [Given(lambda run: Neurons(by_row), "mlp")], compiled=compiled)
    drafted = steps_of(model, [Given(lambda run: Neurons(by_row), "mlp"), PromptLookup()])
    assert tokens_of(alone) == tokens_of(drafted) != tokens_of(steps_of(model))
    assert any(step.drafted for step in drafted)
    assert sum(step.flops for step in alone) < sum(step.flops for step in steps_of(model))


def test_rows_that_leave_the_sublayer_out_are_not_counted():
    """And where no row runs it, none of its weights is read."""
    model, spent = tiny("llama"), []
    for share in (1, 2, len(PROMPT) + 1):

        def every(block, x, share=share):
            return (torch.arange(1, len(x) + 1) % share == 0)[:, None].expand(-1, width(block))

        decoder = Decoder(model, 0, {"mlp": Neurons(every)})
        decoder.prefill(PROMPT)
        spent.append((decoder.flops, decoder.bytes))
    numbers = sum(block.up.weight.numel() + block.down.weight.numel() for block in model.anatomy.blocks)
    (whole, read), (half, same), (none, unread) = spent
    assert whole - half == half - none == 2 * numbers * len(PROMPT) // 2
    assert read == same == unread + 4 * numbers


class StandIn(Neurons):
    """Every third row goes through the MLP; to the others a tenth of themselves is added."""

    def stand_in(self, block, x):
        self.asked.append((block.index, len(x)))
        own = (x[:, 0] > 0.3).nonzero()[:, 0]
        return own, x * 0.1


@pytest.mark.parametrize("family", DENSE)
def test_rows_that_something_else_stands_in_for(family):
    """The others go through the MLP, each as alone, and ``neurons`` is asked of them alone."""
    model = tiny(family)
    block, x = dense(model)[0], torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(4))
    for choose, given in ((lambda *_: None, {}), (every_third, {"choose": _Only(every_third, block)})):
        policy = StandIn(choose)
        choice = MlpChoice(block, policy)
        found = block.mlp_sublayer(x, choose=choice)[0]
        own = (x[0, :, 0] > 0.3).tolist()
        assert 0 < sum(own) < 9 and policy.asked == [(block.index, 9), (block.index, sum(own))]
        for row, through in enumerate(own):
            alone = block.mlp_sublayer(x[:, row : row + 1], **given)[0, 0] if through else 0.1 * x[0, row]
            torch.testing.assert_close(found[row], alone, rtol=1e-4, atol=1e-5)
        each = (block.up.weight.numel() + block.down.weight.numel()) // width(block)
        run = width(block) if not given else len(every_third(block, x))
        assert choice.spared_flops == 2 * each * (9 * width(block) - sum(own) * run)
        assert choice.spared_bytes == 4 * each * (width(block) - run)


def test_an_mlp_that_no_row_goes_through_is_not_read():
    class Nothing(Neurons):
        def stand_in(self, block, x):
            return torch.empty(0, dtype=torch.long), torch.zeros_like(x)

    model = tiny("llama")
    plain, other = Decoder(model), Decoder(model, 0, {"mlp": Nothing(every_third)})
    plain.forward(PROMPT[:3]), other.forward(PROMPT[:3])
    numbers = sum(block.up.weight.numel() + block.down.weight.numel() for block in model.anatomy.blocks)
    assert plain.flops - other.flops == 2 * 3 * numbers and plain.bytes - other.bytes == 4 * numbers


@pytest.mark.parametrize(
    ("own", "added", "said"),
    [
        (torch.ones(24, dtype=torch.bool), torch.zeros(24, 32), r"gave places of rows as bool \[24\]"),
        (torch.zeros(1), torch.zeros(24, 32), r"gave places of rows as float32 \[1\]"),
        (torch.arange(2), torch.zeros(2, 32), r"torch.float32 \[2, 32\] to be added to torch.float32 \[24, 32\]"),
        (torch.arange(2), torch.zeros(24, 32).half(), r"torch.float16 .* to be added to torch.float32"),
    ],
)
def test_what_does_not_stand_in_is_refused(own, added, said):
    class Wrong(Neurons):
        def stand_in(self, block, x):
            return own, added

    with pytest.raises(SettingError, match=said):
        steps_of(tiny("llama"), [Given(lambda run: Wrong(every_third), "mlp")])


def test_a_mask_of_another_shape_is_refused():
    technique = Given(lambda run: Neurons(lambda block, x: torch.ones(1, width(block), dtype=torch.bool)), "mlp")
    with pytest.raises(SettingError, match=r"the slot 'mlp' chose with a mask of \(1, 48\), not of \(24, 48\)"):
        steps_of(tiny("llama"), [technique])


def test_no_choice_is_the_baseline():
    model = tiny("llama")
    assert tokens_of(steps_of(model, [Given(lambda run: Neurons(lambda *_: None), "mlp")])) == tokens_of(
        steps_of(model)
    )


# prefill_attention and attention


class Newest:
    """Reads the newest keys alone, for prompt and decode queries alike, and writes down the positions asked for."""

    def __init__(self):
        self.prompt, self.written = [], []

    def attend_prompt(self, layer, query, cache, mask, scoring):
        self.prompt += cache.positions[0, -query.shape[2] :].tolist() * (layer == 0)
        return self._values(query, cache)

    def attend(self, layer, query, cache, mask, scoring):
        self.written += cache.positions[0, -query.shape[2] :].tolist() * (layer == 0)
        return self._values(query, cache)

    def _values(self, query, cache):
        own = cache.values[:, :, -query.shape[2] :]
        return own.repeat_interleave(query.shape[1] // own.shape[1], 1), 1.0


@pytest.mark.parametrize("options", [{}, {"prefill_chunk": 5}, {"context_tokens": 17}], ids=str)
@pytest.mark.parametrize("slots", [("prefill_attention",), ("attention",), ("prefill_attention", "attention")])
def test_prompt_and_written_tokens_are_asked_in_their_own_slots(slots, options):
    model, technique = tiny("llama"), Given(lambda run: Newest(), *slots)
    steps = steps_of(model, [technique, PromptLookup()], **options)
    (policy,) = technique.policies
    assert policy.prompt == (list(range(len(PROMPT))) if "prefill_attention" in slots else [])
    assert (min(policy.written) == len(PROMPT)) if "attention" in slots else policy.written == []
    first, *later = ({set(step.keys_read) == {1.0} for step in part} for part in (steps[:1], steps[1:]))
    assert first == {"prefill_attention" in slots} and later == [{"attention" in slots}]


def test_what_another_model_wrote_is_no_prompt():
    """The second model reads the prompt, then what the first wrote: only the first of these is a prompt."""
    model = tiny("llama")
    attention = Given(lambda run: Newest(), "prefill_attention", "attention")
    places = iter([0, 0, 0, 1, 1])
    switch = Given(lambda run: Switch([run.model, tiny("llama", seed=1)], lambda *_: next(places)), "switch")
    steps_of(model, [attention, switch], new=5)
    second = attention.policies[1]
    assert second.prompt == list(range(len(PROMPT)))
    assert second.written == list(range(len(PROMPT), len(PROMPT) + 4))


# experts


class Experts:
    """The model's own choice but the ``chosen``-th expert of every row first, and where it lives."""

    def __init__(self, scale=None):
        self.seen, self.fetched, self._scale = [], [], scale

    def choose_experts(self, block, x, logits):
        torch.testing.assert_close(block.router.scores(block.mlp_norm(x)), logits)
        self.seen.append((block.index, tuple(x.shape)))
        weights, indices = block.route(logits)
        return weights[:, :1], indices[:, :1]


class Elsewhere(Experts):
    def fetch_expert(self, block, expert):
        self.fetched.append((block.index, expert))
        own = block.router.experts[expert]
        return replace(own, gate_up=replace(own.gate_up, weight=self._scale * own.gate_up.weight))


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_a_choice_of_experts_sees_the_states_and_fetches_what_it_chose(family):
    model = tiny(family)
    sparse = [block.index for block in model.anatomy.blocks if block.router is not None]
    one, here, away = (
        Given(lambda run, made=made: made, "experts") for made in (Experts(), Elsewhere(1), Elsewhere(-1))
    )
    steps = {each: steps_of(model, [each]) for each in (one, here, away)}
    assert one.policies[0].seen[: len(sparse)] == [(index, (len(PROMPT), 32)) for index in sparse]
    assert tokens_of(steps[one]) == tokens_of(steps[here])
    assert tokens_of(steps[away]) != tokens_of(steps[here]), "the weights must be those that were fetched"
    assert {layer for layer, _ in here.policies[0].fetched} == set(sparse)
    assert sum(sum(step.experts) for step in steps[here]) == len(here.policies[0].fetched)


# switch


class Switch:
    def __init__(self, models, choose):
        self.models, self._choose, self.verifications = tuple(models), choose, []

    def choose_model(self, entropies, verification):
        self.verifications.append(verification)
        return self._choose(entropies, verification)


def test_a_switch_sees_the_last_verification_and_may_stay_with_the_last_model():
    model, other = tiny("llama"), tiny("llama", seed=1)
    places = iter([None, 1, None, None, 0, None, 1, 0])
    technique = Given(lambda run: Switch([model, other], lambda *_: next(places)), "switch")
    steps = steps_of(model, [technique], new=8)
    assert [step.model for step in steps] == [each.name for each in (model, *[other] * 3, *[model] * 2, other, model)]
    first, *later = technique.policies[0].verifications
    assert first is None and [each.tokens for each in later] == [list(step.tokens) for step in steps[:-1]]


def test_a_switch_follows_what_drafts_came_to():
    """A model whose drafts are accepted stays; which they are, only the verification says."""
    technique = Given(
        lambda run: Switch([run.model] * 2, lambda _, last: None if last is None or last.path else 1), "switch"
    )
    steps = steps_of(tiny("llama"), [technique, PromptLookup()], new=24)
    verifications = technique.policies[0].verifications[1:]
    assert [len(each.path) for each in verifications] == [step.accepted for step in steps[:-1]]


def test_teacher_forcing_shows_a_switch_the_text_that_is_fed():
    model, fed = tiny("llama"), random_tokens(5, seed=3)
    technique = Given(lambda run: Switch([model], lambda *_: None), "switch", stepwise=True)
    rows = torch.cat([each.clone() for each in teacher_force(model, PROMPT, fed, [technique])])
    first, *later = technique.policies[0].verifications
    assert first is None and [each.tokens for each in later] == [[token] for token in fed[:-1]]
    torch.testing.assert_close(torch.cat([each.logits for each in later]), rows[:-1])


# Slots that there are not


@pytest.mark.parametrize(
    ("slot", "words"),
    [
        ("cache", r"given: the slot 'cache' is now 'evict' \(what stays\) and 'store' \(form and place\)$"),
        ("evcit", "given: the slot 'evcit' does not exist; there are weights, context, depth, mlp, "),
    ],
)
def test_a_slot_that_there_is_not_is_refused(slot, words):
    with pytest.raises(SettingError, match=words):
        generate(tiny("llama"), PROMPT, [Given(lambda run: None, slot)])
    with pytest.raises(SettingError, match=words.removeprefix("given: ")):
        Decoder(tiny("llama"), 0, {slot: None})


def test_slots_stand_in_the_order_in_which_they_act():
    assert " ".join(SLOTS) == (
        "weights context depth mlp experts prefill_attention attention evict store draft draft_length accept logits "
        "switch stop"
    )

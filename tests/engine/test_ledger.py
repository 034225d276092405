"""What everybody spends is counted, a policy's own work among it, and a step's totals are the sum."""

import time

import pytest
import torch
from helpers import random_tokens, run
from torch import nn

from workbench.engine import Decoder, Ledger
from workbench.engine.ledger import head_cost
from workbench.errors import SettingError
from workbench.models.tiny import tiny
from workbench.techniques import OverlappedDraft, PromptLookup, SnapKV, Technique, TokenSelect

PROMPT = random_tokens(30)


def test_sums_and_shares():
    ledger = Ledger()
    ledger.count("model", 10, 20)
    ledger.count("router", 1.9, 2, 0.5)
    ledger.product("router", 3, torch.zeros(4, 5, dtype=torch.bfloat16))
    assert (ledger.flops, ledger.bytes) == (10 + 1 + 120, 20 + 2 + 40)
    others = ledger.besides("model", "draft")
    assert (others.flops, others.bytes, others.seconds) == (121, 42, 0.5)
    assert ledger.of("nobody").flops == 0 and "router" in repr(ledger)
    ledger.reset()
    assert ledger.flops == 0 and "nothing" in repr(ledger)


def test_time_is_written_down_also_after_an_error():
    ledger = Ledger()
    with pytest.raises(KeyError), ledger.timed("policy"):
        time.sleep(0.002)
        raise KeyError
    assert 0.002 <= ledger.of("policy").seconds < 1


class Small(nn.Module):
    def __init__(self, width, vocabulary):
        super().__init__()
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, x):
        return self.head(self.norm(x))


def test_a_head_says_what_it_costs_or_is_refused():
    head = Small(8, 5)
    assert head_cost(head, 3) == (2 * 3 * 40, 4 * (40 + 5 + 16))

    class Own:
        flops, bytes = (lambda self, rows: 7 * rows), (lambda self, rows: 11)

    assert head_cost(Own(), 3) == (21, 11)
    with pytest.raises(SettingError, match="costs is not known"):
        head_cost(torch.tanh, 3)


class ExitHead(Technique):
    """Looks at every token after layer 1 through a small head, and never exits."""

    slots = ("depth",)
    exact = True
    paper = "none"
    name = "exit_head"

    def start(self, run):
        torch.manual_seed(0)
        self.head = Small(run.model.anatomy.width, run.model.anatomy.vocabulary)
        return self

    @classmethod
    def neutral(cls):
        return cls()

    def opened(self, opened):
        self._pass = opened

    def next_layer(self, layer, x):
        if layer == 1 and not self._pass.prefill:
            assert self._pass.unembed(head=self.head).shape == (x.shape[1], 96)
        return layer + 1 if layer < 3 else None


@pytest.mark.parametrize("others", [[], [PromptLookup()]], ids=["alone", "drafts"])
def test_an_exit_head_is_no_free_lunch(others):
    model, prompt = tiny("llama"), PROMPT[:7] * 4
    plain, looked = run(model, prompt, others), run(model, prompt, [ExitHead(), *others])
    head = Small(model.anatomy.width, 96)
    for one, other in zip(plain, looked, strict=True):
        rows = 0 if one.phase == "prefill" else 1 + one.drafted
        flops, moved = head_cost(head, rows) if rows else (0, 0)
        assert (other.policy_flops, other.policy_bytes) == (flops, moved)
        assert (other.flops - one.flops, other.bytes - one.bytes) == (flops, moved)
        assert (other.policy_seconds > 0) == bool(rows)
        assert one.policy_flops == one.policy_bytes == one.policy_seconds == 0 and one.tokens == other.tokens


def test_the_scores_of_snap_kv_are_counted():
    """Every layer multiplies the window's queries with all keys: ``2 * window * keys * heads * head_dim`` FLOPs."""
    model = tiny("llama")
    block = model.anatomy.blocks[0]
    steps = run(model, PROMPT, [SnapKV(keep=0.5, window=4)], 3)
    products = 2 * 4 * 30 * block.heads * block.head_dim
    keys = 4 * 30 * block.kv_heads * block.head_dim
    assert (steps[0].policy_flops, steps[0].policy_bytes) == (4 * products, 4 * keys)
    assert steps[0].flops - steps[0].policy_flops == run(model, PROMPT, new=1)[0].flops
    assert steps[0].policy_seconds > 0 and all(step.policy_flops == 0 for step in steps[1:])


def test_the_vote_of_token_select_is_its_own():
    """It is part of what a step counts already, as half a key read; here it is put down to whom it belongs."""
    model = tiny("llama")
    block = model.anatomy.blocks[0]
    step = run(model, PROMPT, [TokenSelect(k=4, sinks=1, recent=3, threshold=1.0)], 2)[1]
    voted = 30 - 1 - 3
    assert step.policy_flops == 4 * 2 * voted * block.heads * block.head_dim
    assert step.policy_bytes == 4 * 4 * voted * block.kv_heads * block.head_dim
    plain = run(model, PROMPT, new=2)[1]
    saved = (31 - step.keys_read[0]) * 4 * block.heads * block.head_dim
    assert step.keys_read == (4 + 1 + 3 + 1 + voted / 2,) * 4
    assert step.flops == plain.flops - 4 * saved


def test_the_exit_of_overlapped_draft_unembeds_for_the_draft():
    model = tiny("llama")
    technique = {"model": "/2", "draft": 3, "first": 2, "at_once": False}
    plain = run(model, PROMPT, [OverlappedDraft(**technique)])
    exits = run(model, PROMPT, [OverlappedDraft(exit_layer=0.5, branches=1, **technique)])
    # No row but the draft's runs in the model: what the exit costs is one unembedding of each.
    unembedding = 2 * model.anatomy.unembedding.numel()
    one, other = plain[1], exits[1]
    assert (one.drafted, one.layers) == (other.drafted, other.layers)
    assert other.flops - one.flops == (1 + one.drafted) * unembedding


def test_each_decoder_has_a_ledger_of_its_own_unless_it_is_given_one():
    model, shared = tiny("llama"), Ledger()
    one, other = Decoder(model), Decoder(model, ledger=shared)
    other.prefill(PROMPT)
    assert one.flops == 0 and other.flops == shared.flops > 0
    other.reset_counts()
    assert shared.flops == 0

"""Teacher-forced and free-running quality against slow restatements."""

import threading

import numpy as np
import pytest
import torch
from studies.made_up import Biased

from workbench.engine.generate import generate
from workbench.studies.quality import Forced, against_baseline, answer
from workbench.techniques import PromptLookup

PROMPT = [1, 5, 6, 7, 5, 6]


@pytest.fixture
def forced(tiny):
    model = tiny("llama")
    written = [token for step in generate(model, PROMPT, max_new_tokens=8, stop_tokens=()) for token in step.tokens]
    return Forced(model, PROMPT, written)


def own_logits(model, text):
    """transformers' own, after every token of the prompt's end and of the text but the last."""
    with torch.inference_mode():
        return model.hf(torch.tensor([PROMPT + text])).logits[0, len(PROMPT) - 1 : -1].double()


def test_the_baseline_s_distributions_are_the_model_s_own(forced):
    expected = own_logits(forced.model, forced.continuation)
    assert forced.logits == pytest.approx(expected.numpy(), abs=1e-4)
    assert forced.logits.argmax(-1).tolist() == forced.continuation
    top = expected.topk(2, -1).values
    assert forced.margins == pytest.approx((top[:, 0] - top[:, 1]).tolist(), abs=1e-4)


def test_a_known_change_has_its_known_divergence(forced):
    found = forced.compare([Biased(token=5, by=3.0)])
    before = own_logits(forced.model, forced.continuation)
    after = before.clone()
    after[:, 5] += 3.0
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    assert found["kl"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)
    assert found["top1_agreement"] == float((before.argmax(-1) == after.argmax(-1)).double().mean())
    surprise = -q[torch.arange(8), torch.tensor(forced.continuation)].mean()
    assert found["perplexity"] == pytest.approx(float(surprise.exp()), rel=1e-3)


def test_the_baseline_and_a_drafter_do_not_diverge(forced):
    for techniques in ([], [PromptLookup()]):
        found = forced.compare(techniques)
        assert found["kl"] == 0.0 and found["top1_agreement"] == 1.0


def test_tokens_fed_one_by_one_are_held_against_their_own_rows(forced):
    class Stepwise(Biased):
        stepwise = True

    together, single = forced.compare([Biased(by=1.0)]), forced.compare([Stepwise(by=1.0)])
    assert single == pytest.approx(together, rel=1e-3)


def test_cancelled_it_says_nothing(tiny):
    cancel = threading.Event()
    forced = Forced(tiny("llama"), PROMPT, [7, 8, 9], cancel=cancel)
    assert forced.compare([]) is not None
    cancel.set()
    assert forced.compare([]) is None
    assert Forced(tiny("llama"), PROMPT, [7, 8, 9], prefill_chunk=2, cancel=cancel).logits.size == 0


def test_a_prompt_read_in_chunks_is_held_against_the_same_rows(tiny):
    plain, chunked = (Forced(tiny("llama"), PROMPT, [7, 8, 9], prefill_chunk=chunk) for chunk in (None, 2))
    np.testing.assert_allclose(chunked.logits, plain.logits, atol=1e-4)
    assert chunked.compare([])["kl"] == pytest.approx(0, abs=1e-6)


def test_one_token_is_enough(tiny):
    found = Forced(tiny("llama"), PROMPT, [7]).compare([Biased(by=0.0)])
    assert found["kl"] == 0.0 and np.isfinite(found["perplexity"])


def test_free_running_views(tiny):
    model = tiny("llama")
    equal = against_baseline(model, [3, 4], [3, 4])
    assert np.isnan(equal.pop("first_divergence")) and equal == {"equal_to_baseline": 1.0, "rouge_l": 1.0}
    found = against_baseline(model, [3, 5, 6, 9], [3, 4, 6, 9])
    assert found == {"equal_to_baseline": 0.0, "first_divergence": 1.0, "rouge_l": 0.75}
    assert against_baseline(model, [3], [3, 4])["first_divergence"] == 1.0


def test_an_answer_ends_at_its_first_stop_token(tiny):
    model = tiny("llama")
    assert model.stop_tokens == (2,)
    assert answer(model, [3, 4, 2, 5]) == "<3><4>"
    assert answer(model, [3, 4]) == "<3><4>"
    assert answer(model, []) == ""

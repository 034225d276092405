"""Temperature, top-k, top-p and chance."""

import pytest
import torch

from workbench.engine import Chance, Sampler
from workbench.engine.sampling import any_left, entropies, finite, refuse, well_adjusted
from workbench.errors import NumericalError, SettingError


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    kept = Sampler(temperature=1.0, top_p=0.7).distribution(logits)
    torch.testing.assert_close(kept, torch.tensor([0.625, 0.375, 0.0, 0.0]))


def test_top_k_then_top_p_work_on_many_rows():
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    kept = Sampler(temperature=0.7, top_k=6, top_p=0.9).distribution(logits)
    assert ((kept > 0).sum(-1) <= 6).all()
    torch.testing.assert_close(kept.sum(-1), torch.ones(5))


def test_temperature_zero_is_greedy():
    assert Sampler().choose(torch.tensor([0.1, 3.0, 2.9])) == 1


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Sampler(**wrong)


def test_chance_repeats_with_its_seed():
    first, second = Chance(3), Chance(3)
    distribution = torch.tensor([0.2, 0.3, 0.5])
    assert [first.draw(distribution) for _ in range(20)] == [second.draw(distribution) for _ in range(20)]


def test_entropy_is_in_nats():
    assert entropies(torch.zeros(1, 8)) == pytest.approx([torch.tensor(8.0).log().item()])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_logits_are_named(bad):
    with pytest.raises(NumericalError, match="float32"):
        refuse([finite(torch.tensor([0.0, bad]), "model")])


def test_what_was_read_is_not_asked_for_again(monkeypatch):
    logits, sampler = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]]), Sampler()
    sampler.read(logits, [finite(logits, "model")])
    monkeypatch.setattr(torch.Tensor, "argmax", lambda *_: pytest.fail("asked again"))
    assert sampler.best(logits) == [1, 0] and sampler.choose_after(logits, -1) == 0
    monkeypatch.undo()
    assert sampler.best(logits.flip(-1)) == [1, 2], "other logits are"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_first_check_that_fails_is_the_one_that_is_said(temperature):
    logits = torch.full((1, 3), float("-inf"))
    checks = [well_adjusted(logits, "mine"), any_left(logits[0])]
    with pytest.raises(NumericalError, match="no token may come next"):
        Sampler(temperature).read(logits, checks)
    with pytest.raises(NumericalError, match="mine made NaN"):
        Sampler(temperature).read(logits, [well_adjusted(logits + float("inf"), "mine"), *checks])

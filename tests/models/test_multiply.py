"""Every way to multiply gives the same product, and the table picks by the number of rows."""

import pytest
import torch

from workbench.models.multiply import CANDIDATES, Multiply, _chosen

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("rows", [1, 2, 3, 16])
def test_candidates_agree_with_float64(name, rows, dtype):
    if name == "native" and rows > 1:
        pytest.skip("the native product is a matrix-vector product: one row")
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 48, generator=generator).to(dtype)
    weight = torch.randn(64, 48, generator=generator).to(dtype)
    expected = (x.double() @ weight.double().T).float()
    found = CANDIDATES[name](x, weight).float()
    assert float((found - expected).abs().max()) < TOLERANCE[dtype] * float(expected.abs().max())
    assert torch._C._get_mkldnn_enabled(), "the library switch was left off"


def test_choices_cover_the_rows_up_to_the_next_larger_one(monkeypatch):
    called = []
    for name in ("columns", "halves"):
        monkeypatch.setitem(CANDIDATES, name, lambda x, w, name=name: called.append(name) or x @ w.T)
    multiply = Multiply({1: "columns", 4: "halves"})
    weight = torch.randn(6, 5)
    for rows in (1, 2, 4, 5):
        x = torch.randn(1, rows, 5)
        torch.testing.assert_close(multiply(x, weight), x @ weight.T)
    assert called == ["columns", "halves", "halves"]


def test_bias_and_leading_dimensions_are_kept():
    x, weight, bias = torch.randn(2, 3, 5), torch.randn(6, 5), torch.randn(6)
    torch.testing.assert_close(Multiply({8: "columns"})(x, weight, bias), torch.nn.functional.linear(x, weight, bias))


def test_measured_knows_every_size_and_small_weights_are_not_timed():
    assert Multiply.measured([torch.randn(64, 48)]).choices == {}
    found = Multiply.measured([torch.randn(1024, 1024)] * 2, repeats=1).choices
    assert set(found) == {1, 2, 4, 8, 16, 32, 64} and set(found.values()) <= set(CANDIDATES)


def test_a_candidate_that_errs_is_passed_over(monkeypatch):
    def broken(x, weight):
        raise RuntimeError("not built in")

    monkeypatch.setitem(CANDIDATES, "one_dnn", broken)
    assert "one_dnn" not in Multiply.measured([torch.randn(1024, 1024)], repeats=1).choices.values()


def test_gradients_pass_through_every_choice():
    x, weight = torch.randn(2, 48, requires_grad=True), torch.randn(64, 48)
    Multiply({2: "few_rows"})(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(2, -1))


def test_a_weight_changed_in_place_is_seen_at_once():
    x, weight = torch.randn(2, 48), torch.randn(64, 48)
    multiply = Multiply({2: "few_rows"})
    multiply(x, weight)
    weight[5, 7] += 1.0
    torch.testing.assert_close(multiply(x, weight), x @ weight.T)


@pytest.mark.parametrize(
    "seconds, chosen",
    [
        ({"linear": 1.0, "columns": 0.95}, "linear"),
        ({"linear": 1.0, "columns": 0.9}, "columns"),
        ({"linear": 1.0, "native": 0.5, "few_rows": 0.55}, "few_rows"),
        ({"linear": 1.0, "native": 0.5, "few_rows": 0.7}, "native"),
        ({"linear": 1.0, "few_rows": 1.05}, "linear"),
    ],
)
def test_the_choice_is_the_fastest_with_a_leaning(seconds, chosen):
    assert _chosen(seconds) == chosen

"""One product for every number of rows, compiled or torch's, and never chosen by a clock."""

import pytest
import torch
from torch.nn import functional as F

from workbench.models.multiply import Multiply
from workbench_kernels import arithmetic
from workbench_kernels.arithmetic import compiled

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
needs_kernel = pytest.mark.skipif(not compiled(torch.float32), reason="nothing can be compiled here")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 2, 3, 16, 65, 300])
def test_it_is_the_product(rows, dtype):
    generator = torch.Generator().manual_seed(rows)
    x, weight = torch.randn(rows, 48, generator=generator).to(dtype), torch.randn(64, 48, generator=generator).to(dtype)
    expected = (x.double() @ weight.double().T).float()
    for multiply in (Multiply(), Multiply(dtype)):
        assert float((multiply(x, weight).float() - expected).abs().max()) < TOLERANCE[dtype] * float(
            expected.abs().max()
        )


@needs_kernel
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_row_is_the_same_whatever_stands_beside_it(dtype):
    x, weight = torch.randn(300, 576).to(dtype), torch.randn(130, 576).to(dtype)
    multiply = Multiply(dtype)
    whole = multiply(x, weight)
    for rows in (1, 2, 63, 64, 65, 80, 129):
        assert torch.equal(multiply(x[:rows], weight), whole[:rows]), rows


def test_no_clock_is_read(monkeypatch):
    import time

    def read():
        raise AssertionError("a timing decides")

    monkeypatch.setattr(time, "perf_counter", read)
    weight = torch.randn(1024, 1024)
    Multiply(torch.float32)(torch.randn(1, 1024), weight)


def test_bias_and_leading_dimensions_are_kept():
    x, weight, bias = torch.randn(2, 3, 5), torch.randn(6, 5), torch.randn(6)
    torch.testing.assert_close(Multiply(torch.float32)(x, weight, bias), F.linear(x, weight, bias))


def test_what_the_kernel_does_not_take_is_torchs():
    x, weight = torch.randn(2, 48), torch.randn(48, 64).T
    assert torch.equal(Multiply(torch.float32)(x, weight), F.linear(x, weight))
    assert torch.equal(Multiply(torch.bfloat16)(x, weight), F.linear(x, weight))
    assert Multiply(torch.float32, torch.device("meta"))._kernel is None and Multiply(torch.float16)._kernel is None


def test_gradients_pass_through():
    x, weight = torch.randn(2, 48, requires_grad=True), torch.randn(64, 48)
    Multiply(torch.float32)(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(2, -1))


def test_a_weight_changed_in_place_is_seen_at_once():
    x, weight = torch.randn(2, 48), torch.randn(64, 48)
    multiply = Multiply(torch.float32)
    multiply(x, weight)
    weight[5, 7] += 1.0
    torch.testing.assert_close(multiply(x, weight), x @ weight.T)


class TestArithmetic:
    """All of the kernels or none, and a name for either."""

    @pytest.fixture(autouse=True)
    def asked_anew(self):
        yield
        arithmetic.compiled.cache_clear()
        arithmetic.unavailable.cache_clear()

    def asked(self):
        arithmetic.compiled.cache_clear()
        arithmetic.unavailable.cache_clear()
        return arithmetic.name(torch.float32, torch.device("cpu"))

    @needs_kernel
    def test_its_name_says_the_instructions_and_the_sources(self, monkeypatch):
        name = self.asked()
        assert name.startswith("compiled, ") and len(name.split(", ")) == 3
        monkeypatch.setattr(arithmetic, "_digest", lambda: "other")
        assert self.asked() != name

    @pytest.mark.parametrize("kernel", ["few_rows.FewRows", "attention.compiled", "activation.compiled"])
    def test_if_one_cannot_be_had_torch_computes_all(self, kernel, monkeypatch):
        def refuse(*_):
            raise arithmetic.BackendUnavailable("no such compiler")

        module, name = kernel.split(".")
        monkeypatch.setattr(getattr(arithmetic, module), name, refuse)
        assert self.asked().startswith("torch ") and "no such compiler" in arithmetic.unavailable(torch.float32)
        assert Multiply(torch.float32)._kernel is None and not arithmetic.computes(torch.ones(1))

    def test_it_can_be_left_to_torch(self, monkeypatch):
        monkeypatch.setenv(arithmetic.OFF, "0")
        assert self.asked() == f"torch {torch.__version__}, {torch.get_num_threads()} threads"

    def test_half_precision_and_other_devices_are_torchs(self):
        assert arithmetic.name(torch.float16, torch.device("cpu")).startswith("torch ")
        assert arithmetic.name(torch.float32, torch.device("meta")) == f"torch {torch.__version__} on meta"

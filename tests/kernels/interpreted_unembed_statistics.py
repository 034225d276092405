"""The Triton kernel in Triton's interpreter against the reference in float64.

Started by ``test_separate_processes.py`` under ``TRITON_INTERPRET=1``.
"""

import pytest
import torch

from workbench_kernels.dispatch import interpreting
from workbench_kernels.unembed_statistics import Norm, unembed_statistics
from workbench_kernels.unembed_statistics.combine import LOWEST_KEY, candidates_of
from workbench_kernels.unembed_statistics.kernel import _keys, partial_statistics, triton_statistics
from workbench_kernels.unembed_statistics.reference import reference_statistics

if not interpreting():
    raise RuntimeError("These tests need TRITON_INTERPRET=1: run test_separate_processes.py.")

BLOCKS = (16, 32, 16)
AROUND_A_BLOCK = (1, 31, 32, 33, 3 * 32 + 7)
WIDTH = 40
torch.set_num_threads(1)


def make(rows: int, vocabulary: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + vocabulary)
    residual = torch.randn(rows, WIDTH, generator=generator).to(dtype)
    weight = (torch.randn(vocabulary, WIDTH, generator=generator) / 3).to(dtype)
    return residual, weight, torch.randint(vocabulary, (rows,), generator=generator)


def agree(found: dict, expected: dict) -> None:
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        elif value.is_floating_point():
            assert found[name].dtype == torch.float32
            torch.testing.assert_close(found[name].double(), value, rtol=2e-6, atol=1e-5, msg=lambda m, n=name: n + m)
        else:
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocabulary", AROUND_A_BLOCK)
def test_vocabularies_around_the_block_size(vocabulary: int, dtype: torch.dtype) -> None:
    residual, weight, target = make(17, vocabulary, dtype)
    bias, target = weight[:, 0], target.repeat_interleave(2)[::2]  # both strided
    arguments = (residual, weight, Norm(), bias, 1.5, 4.0, target, min(vocabulary, 5))
    agree(triton_statistics(*arguments, blocks=BLOCKS), reference_statistics(*arguments, dtype=torch.float64))


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 3 * 16 + 7])
def test_row_counts_around_the_block_size(rows: int) -> None:
    residual, weight, target = make(rows, 70, torch.float32)
    arguments = (residual, weight, Norm(), None, 1.0, None, target, 3)
    agree(triton_statistics(*arguments, blocks=BLOCKS), reference_statistics(*arguments, dtype=torch.float64))


@pytest.mark.parametrize("width", [1, 15, 16, 17, 3 * 16 + 7])
def test_widths_around_the_block_size(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    residual, weight = torch.randn(5, width, generator=generator), torch.randn(40, width, generator=generator)
    arguments = (residual, weight, Norm(), None, 1.0, None, None, 3)
    agree(triton_statistics(*arguments, blocks=BLOCKS), reference_statistics(*arguments, dtype=torch.float64))


@pytest.mark.parametrize("parts", [1, 2, 3, 50])
def test_parts_of_the_vocabulary_make_no_difference(parts: int) -> None:
    residual, weight, target = make(9, 103, torch.float32)
    arguments = (residual, weight, Norm(), None, 1.0, None, target, 7)
    found = triton_statistics(*arguments, blocks=BLOCKS, parts=parts)
    agree(found, reference_statistics(*arguments, dtype=torch.float64))


@pytest.mark.parametrize("top_k", [1, 2, 31, 32])
def test_top_k_up_to_its_limit(top_k: int) -> None:
    residual, weight, _ = make(6, 103, torch.float32)
    arguments = (residual, weight, Norm(), None, 1.0, None, None, top_k)
    agree(triton_statistics(*arguments, blocks=BLOCKS, parts=4), reference_statistics(*arguments, dtype=torch.float64))


def test_equal_logits_are_ordered_by_token_id() -> None:
    generator = torch.Generator().manual_seed(0)
    residual = torch.randint(-1, 2, (12, 4), generator=generator).float()
    weight = torch.randint(-1, 2, (103, 4), generator=generator).float()
    target = torch.randint(103, (12,), generator=generator)
    arguments = (residual, weight, Norm(), None, 1.0, None, target, 12)
    agree(triton_statistics(*arguments, blocks=BLOCKS, parts=2), reference_statistics(*arguments, dtype=torch.float64))


def test_kernel_writes_every_output() -> None:
    residual, weight, target = make(17, 103, torch.float32)
    parts, tokens, top_k = 2, 64, 3
    log_sum_exp, mean = torch.full((2, 17, parts), torch.nan)
    keys, ahead = torch.full((17, parts, top_k), LOWEST_KEY), torch.full((17, parts), -1, dtype=torch.int32)
    target_logit = torch.full((17,), torch.nan)
    partial_statistics[(2, parts)](
        residual, weight, None, target, log_sum_exp, mean, keys, target_logit, ahead,
        17, 103, WIDTH, WIDTH, WIDTH, tokens, 1.0, 1.0,
        False, True, False, True, top_k, 4, *BLOCKS,
    )  # fmt: skip
    logits = residual.double() @ weight.double().T
    for part, piece in enumerate((logits[:, :tokens], logits[:, tokens:])):
        torch.testing.assert_close(log_sum_exp[:, part].double(), piece.logsumexp(-1), rtol=1e-6, atol=1e-5)
        expected_mean = (piece.softmax(-1) * piece).sum(-1)
        torch.testing.assert_close(mean[:, part].double(), expected_mean, rtol=1e-6, atol=1e-5)
        best = piece.topk(top_k)
        ids, values = candidates_of(keys[:, part].sort(-1, descending=True).values)
        assert torch.equal(ids, best.indices + part * tokens)
        torch.testing.assert_close(values.double(), best.values, rtol=1e-6, atol=1e-5)
        assert torch.equal(ahead[:, part].long(), (piece > logits.gather(1, target[:, None])).sum(-1))
    torch.testing.assert_close(target_logit.double(), logits.gather(1, target[:, None])[:, 0], rtol=1e-6, atol=1e-5)


def test_public_function_runs_the_kernel_when_asked() -> None:
    residual, weight, target = make(5, 40, torch.float32)
    norm = Norm("rms", torch.rand(WIDTH), offset=1.0)
    found = unembed_statistics(residual, weight, norm=norm, target=target, top_k=4, backend="triton")
    twin = unembed_statistics(residual, weight, norm=norm, target=target, top_k=4)
    assert (found.backend, twin.backend) == ("triton", "torch")
    assert torch.equal(found.top_ids, twin.top_ids) and torch.equal(found.target_rank, twin.target_rank)
    torch.testing.assert_close(found.entropy, twin.entropy, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # numpy remarks on inf - inf, as due
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_raise(value: float) -> None:
    residual, weight, _ = make(5, 40, torch.float32)
    bias = torch.zeros(40)
    bias[33] = value
    with pytest.raises(FloatingPointError, match="5 of 5 rows"):
        unembed_statistics(residual, weight, bias=bias, backend="triton")


def test_float64_is_refused() -> None:
    residual, weight, _ = make(5, 40, torch.float64)
    with pytest.raises(ValueError, match="no float64"):
        unembed_statistics(residual, weight, backend="triton")


def test_key_helper_is_interpreted_not_compiled() -> None:
    assert "Interpreted" in type(_keys).__name__

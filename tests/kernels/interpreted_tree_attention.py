"""The Triton kernels of tree attention in Triton's interpreter against the reference in float64.

Started by ``test_separate_processes.py`` under ``TRITON_INTERPRET=1``.
"""

import pytest
import torch

from workbench_kernels.dispatch import interpreting
from workbench_kernels.tree_attention import TreeVerification, tree_attention
from workbench_kernels.tree_attention.kernel import block_sizes, merge_parts, partial_attention, triton_attention
from workbench_kernels.tree_attention.reference import reference_attention

if not interpreting():
    raise RuntimeError("These tests need TRITON_INTERPRET=1: run test_separate_processes.py.")

BLOCKS = (16, 32)
AROUND_A_BLOCK = (1, 31, 32, 33, 3 * 32 + 7)
HEAD_DIM = 16
SCALE = 0.3
torch.set_num_threads(1)


def drafted(kind: str, tokens: int) -> torch.Tensor:
    """Ancestors of a chain, of a random tree, of one root's children, or of tokens that are all roots."""
    generator = torch.Generator().manual_seed(tokens)
    visible = torch.eye(tokens, dtype=torch.bool)
    for node in range(1, tokens):
        choices = {"chain": node - 1, "random": int(torch.randint(node, (), generator=generator)), "siblings": 0}
        if kind != "roots":
            visible[node] |= visible[choices[kind]]
    return visible


def make(
    held: int, heads: tuple[int, int] = (3, 1), tokens: int = 5, head_dim: int = HEAD_DIM, batch: int = 1,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """Query, keys and values; the last two are views of a buffer with NaN behind what is held."""
    generator = torch.Generator().manual_seed(held * 1000 + tokens)
    query = torch.randn(batch, tokens, heads[0], head_dim, generator=generator).transpose(1, 2).to(dtype)
    buffers = torch.full((2, batch, heads[1], held + 9, head_dim), torch.nan, dtype=dtype)
    buffers[:, :, :, :held] = 2 * torch.randn(2, batch, heads[1], held, head_dim, generator=generator)
    return query, buffers[0, :, :, :held], buffers[1, :, :, :held]


def agree(tensors: tuple, visible: torch.Tensor, tolerance: float = 2e-6, **settings) -> None:
    found = triton_attention(*tensors, visible.to(torch.uint8), SCALE, **{"blocks": BLOCKS, **settings})
    expected = reference_attention(*tensors, visible, SCALE, dtype=torch.float64)
    assert found.dtype == tensors[0].dtype and found.shape == tensors[0].shape
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("earlier", [0, *AROUND_A_BLOCK])
def test_caches_around_the_block_size(earlier: int, dtype: torch.dtype) -> None:
    # the interpreter computes in float32, so only the result is rounded
    tolerance = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    agree(make(earlier + 5, dtype=dtype), drafted("random", 5), tolerance)


@pytest.mark.parametrize("kind", ["chain", "random", "siblings", "roots"])
@pytest.mark.parametrize("tokens", AROUND_A_BLOCK)
def test_trees_around_the_block_size(tokens: int, kind: str) -> None:
    for earlier in (0, 32):
        agree(make(earlier + tokens, (1, 1), tokens), drafted(kind, tokens), parts=2)


@pytest.mark.parametrize("heads", [(1, 1), (2, 2), (3, 1), (6, 2)], ids=str)
@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 3 * 16 + 7])
def test_rows_around_the_block_size_in_groups(tokens: int, heads: tuple[int, int]) -> None:
    agree(make(40 + tokens, heads, tokens), drafted("random", tokens))


@pytest.mark.parametrize("head_dim", [1, 15, 16, 17, 24, 3 * 16 + 7])
def test_head_dims_that_fill_a_block_or_do_not(head_dim: int) -> None:
    agree(make(50, head_dim=head_dim), drafted("random", 5), 1e-5)


@pytest.mark.parametrize("parts", [1, 2, 3, 50])
def test_parts_of_the_cache_make_no_difference(parts: int) -> None:
    agree(make(103, tokens=40), drafted("random", 40), parts=parts)


def test_merging_more_parts_than_a_block_of_them() -> None:
    agree(make(16 * 35, tokens=3), drafted("chain", 3), blocks=(16, 16), parts=35)


def test_a_part_of_which_a_row_sees_nothing() -> None:
    visible = drafted("roots", 70)
    agree(make(70, (1, 1), tokens=70), visible, parts=3)
    agree(make(71, (1, 1), tokens=70), visible, parts=3)


def test_several_texts_and_strides() -> None:
    query, keys, values = make(60, (6, 2), batch=3)
    agree((query, keys, values), drafted("random", 5))
    agree((query.transpose(2, 3).contiguous().transpose(2, 3), keys, values), drafted("random", 5))
    agree((query, keys.transpose(2, 3).contiguous().transpose(2, 3), values[..., :]), drafted("random", 5))
    keys, values = (torch.cat((x, x), 3)[..., ::2] for x in (keys, values))
    agree((query, keys, values), drafted("random", 5))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_large_logits_that_rise_or_fall_along_the_cache(sign: float) -> None:
    query, keys, values = make(200)
    keys = keys + sign * torch.arange(200.0)[:, None]
    agree((query, keys, values), drafted("random", 5), 2e-4)


def test_kernels_write_every_output() -> None:
    query, keys, values = make(75, (3, 1), 20)
    visible = drafted("random", 20)
    rows, parts = 60, 2
    weighted, log_total = torch.full((rows, parts, HEAD_DIM), torch.nan), torch.full((rows, parts), torch.nan)
    partial_attention[(4, parts, 1)](
        query, keys, values, visible.to(torch.uint8), weighted, log_total,
        rows, 20, 75, 1, 64, SCALE, *query.stride()[:3], *keys.stride()[:3], *values.stride()[:3],
        True, HEAD_DIM, 16, *BLOCKS,
    )  # fmt: skip
    logits = query.double() @ keys.double().transpose(2, 3) * SCALE * torch.log(torch.tensor(2.0, dtype=torch.float64))
    logits[..., 55:].masked_fill_(~visible, -torch.inf)
    logits = logits.flatten(0, 2)
    assert logits[:, 64:].isinf().all(1).any(), "no row without a key in the second part"
    for part, piece in enumerate((slice(64), slice(64, None))):
        expected = torch.softmax(logits[:, piece], -1).nan_to_num() @ values[0, 0, piece].double()
        torch.testing.assert_close(weighted[:, part].double(), expected, rtol=2e-6, atol=2e-6)
        expected = torch.logsumexp(logits[:, piece], -1) / torch.log(torch.tensor(2.0, dtype=torch.float64))
        torch.testing.assert_close(log_total[:, part].double(), expected, rtol=2e-6, atol=2e-6)
    out = torch.full((rows, HEAD_DIM), torch.nan)
    merge_parts[(rows,)](weighted, log_total, out, parts, HEAD_DIM, 16, 16)
    expected = torch.softmax(logits, -1) @ values[0, 0].double()
    torch.testing.assert_close(out.double(), expected, rtol=2e-6, atol=2e-6)


def test_public_functions_run_the_kernel_when_asked() -> None:
    tensors, visible = make(50, (6, 2)), drafted("random", 5)
    # transposed in memory, without its diagonal
    given = (visible & ~torch.eye(5, dtype=torch.bool)).T.contiguous().T
    found, twin = (tree_attention(*tensors, given, SCALE, backend=name) for name in ("triton", None))
    assert (found.backend, twin.backend) == ("triton", "torch")
    torch.testing.assert_close(found.weighted, twin.weighted, rtol=1e-5, atol=1e-5)
    verification = TreeVerification(given, "triton")
    for tensors in (make(50, (6, 2)), make(37, (6, 2)), make(50, (6, 2))):
        expected = reference_attention(*tensors, visible, SCALE, dtype=torch.float64)
        torch.testing.assert_close(verification(*tensors, SCALE).double(), expected, rtol=2e-6, atol=2e-6)


def test_what_the_kernel_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no float64"):
        tree_attention(*make(9, dtype=torch.float64), drafted("chain", 5), SCALE, backend="triton")
    with pytest.raises(ValueError, match="no head_dim above 256"):
        tree_attention(*make(9, head_dim=257), drafted("chain", 5), SCALE, backend="triton")


def test_block_sizes_are_powers_of_two_within_16_kibibytes() -> None:
    for rows in (1, 16, 17, 500):
        for head_dim in (1, 64, 80, 128, 256):
            for itemsize in (2, 4):
                block_rows, block_keys = block_sizes(rows, head_dim, itemsize)
                assert 16 <= block_rows <= 64 and 16 <= block_keys <= 64 and block_keys * head_dim * itemsize <= 16384
                assert block_rows.bit_count() == block_keys.bit_count() == 1 and block_rows >= min(rows, 64)
    agree(make(150, tokens=40), drafted("random", 40), blocks=None)

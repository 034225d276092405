"""Tree attention in plain torch: the reference token by token and in float64, the fused path against it."""

import math
import subprocess
import sys

import pytest
import torch
from processors import TAKEN_AWAY
from torch.nn import functional

from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.tree_attention import TreeVerification, tree_attention
from workbench_kernels.tree_attention.grouped import additive_mask
from workbench_kernels.tree_attention.native import DTYPES, compiled, native_attention
from workbench_kernels.tree_attention.reference import reference_attention


def available(dtype: torch.dtype) -> bool:
    """Whether there is a compiled function for a dtype, or one can be made."""
    try:
        return dtype in DTYPES and compiled(dtype) is not None
    except BackendUnavailable:
        return False


SCALE = 0.3
TREES = {
    "chain": lambda node: node - 1,
    "random": lambda node: (node * 7 + 3) % node if node else -1,
    "siblings": lambda node: 0 if node else -1,
    "roots": lambda node: -1,
}
"""Parent of a node, -1 for none."""
BACKENDS = ["torch", "reference", *(["native"] if available(torch.float32) else [])]
native = pytest.mark.skipif(not available(torch.float32), reason="nothing can be compiled here")


def ancestors(kind: str, tokens: int) -> torch.Tensor:
    """True where the column's token is an ancestor of the row's; the token itself is left out."""
    visible = torch.zeros(tokens, tokens, dtype=torch.bool)
    for node in range(tokens):
        above = TREES[kind](node)
        while above >= 0:
            visible[node, above] = True
            above = TREES[kind](above)
    return visible


def make(
    held: int, heads: tuple[int, int] = (6, 2), tokens: int = 5, dtype: torch.dtype = torch.float32, batch: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query, keys and values as the engine has them: a transposed query, and views of a buffer with NaN behind."""
    generator = torch.Generator().manual_seed(held * 1000 + tokens)
    query = torch.randn(batch, tokens, heads[0], 16, generator=generator).transpose(1, 2).to(dtype)
    buffers = torch.full((2, batch, heads[1], held + 9, 16), torch.nan, dtype=dtype)
    buffers[:, :, :, :held] = 2 * torch.randn(2, batch, heads[1], held, 16, generator=generator)
    return query, buffers[0, :, :, :held], buffers[1, :, :, :held]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("earlier", [0, 4])
def test_reference_is_the_sum_over_the_way_to_each_token(kind: str, earlier: int) -> None:
    query, keys, values = make(earlier + 7, tokens=7, batch=2)
    found = reference_attention(query, keys, values, ancestors(kind, 7), SCALE, dtype=torch.float64)
    for batch, head, node in ((0, 0, 0), (0, 2, 6), (1, 3, 3), (1, 5, 5)):
        way, above = list(range(earlier)), node
        while above >= 0:
            way.append(earlier + above)
            above = TREES[kind](above)
        kv_head = head // 3
        asked = query[batch, head, node].tolist()
        powers = [
            math.exp(SCALE * math.fsum(a * b for a, b in zip(asked, keys[batch, kv_head, place].tolist(), strict=True)))
            for place in way
        ]
        weighted = sum(power * values[batch, kv_head, place].double() for power, place in zip(powers, way, strict=True))
        torch.testing.assert_close(found[batch, head, node], weighted / sum(powers), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("heads", [(1, 1), (3, 3), (3, 1), (6, 2)], ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 103])
def test_fused_path_equals_the_reference(tokens: int, heads: tuple[int, int], kind: str) -> None:
    visible = ancestors(kind, tokens)
    for earlier in (0, 1, 100):
        tensors = make(earlier + tokens, heads, tokens)
        found = tree_attention(*tensors, visible, SCALE)
        expected = reference_attention(*tensors, visible, SCALE, dtype=torch.float64)
        assert found.backend == "torch" and found.weighted.dtype == torch.float32
        torch.testing.assert_close(found.weighted.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("earlier", [505, 508, 511, 512])
def test_trees_across_a_block_of_the_fused_path(earlier: int) -> None:
    # torch's own takes 512 keys at a time: a row may see none of the second block
    tensors, visible = make(earlier + 8, tokens=8), ancestors("roots", 8)
    expected = reference_attention(*tensors, visible, SCALE, dtype=torch.float64)
    torch.testing.assert_close(
        tree_attention(*tensors, visible, SCALE).weighted.double(), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision(dtype: torch.dtype) -> None:
    tensors, visible = make(700, tokens=20, dtype=dtype), ancestors("random", 20)
    expected = reference_attention(*tensors, visible, SCALE, dtype=torch.float64)
    for backend in ("torch", "reference", *(["native"] if available(dtype) else [])):
        found = tree_attention(*tensors, visible, SCALE, backend=backend).weighted
        assert found.dtype == dtype and error(found, expected) < 2 * torch.finfo(dtype).eps


def test_float64_is_float64() -> None:
    tensors, visible = make(40, dtype=torch.float64), ancestors("random", 5)
    expected = reference_attention(*tensors, visible, SCALE, dtype=torch.float64)
    assert error(tree_attention(*tensors, visible, SCALE).weighted, expected) < 1e-14


def test_a_chain_is_causal_attention() -> None:
    query, keys, values = make(33, (2, 2), tokens=33)
    expected = functional.scaled_dot_product_attention(query, keys, values, is_causal=True, scale=SCALE)
    found = tree_attention(query, keys, values, ancestors("chain", 33), SCALE).weighted
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_what_is_visible_matters(backend: str) -> None:
    query, keys, values = make(14)
    visible = ancestors("random", 5)
    before = tree_attention(query, keys, values, visible, SCALE, backend=backend).weighted
    for node in range(5):
        changed = keys.clone(), values.clone()
        for tensor in changed:
            tensor[:, :, 9 + node] += 3.0
        after = tree_attention(query, *changed, visible, SCALE, backend=backend).weighted
        moved = (after != before).any(3).all(1)[0]
        seeing = visible[:, node].clone()
        seeing[node] = True
        assert torch.equal(moved, seeing), node


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_diagonal_may_be_marked_or_not(backend: str) -> None:
    tensors, visible = make(14), ancestors("random", 5)
    marked = visible | torch.eye(5, dtype=torch.bool)
    assert not torch.equal(marked, visible)
    first, second = (tree_attention(*tensors, given, SCALE, backend=backend).weighted for given in (visible, marked))
    assert torch.equal(first, second)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_verification_serves_layers_of_different_lengths(backend: str) -> None:
    visible = ancestors("random", 5)
    verification = TreeVerification(visible, backend)
    assert verification.backend == backend
    for held, heads in ((20, (6, 2)), (20, (6, 2)), (31, (6, 2)), (20, (4, 4)), (5, (6, 2)), (20, (6, 2))):
        tensors = make(held, heads)
        expected = reference_attention(*tensors, visible, SCALE, dtype=torch.float64)
        torch.testing.assert_close(verification(*tensors, SCALE).double(), expected, rtol=1e-5, atol=1e-5)


def test_the_mask_is_made_once_for_layers_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(*given) -> torch.Tensor:
        made.append(given[1])
        return additive_mask(*given)

    monkeypatch.setattr("workbench_kernels.tree_attention.grouped.additive_mask", counted)
    verification = TreeVerification(ancestors("chain", 5))
    for held in (20, 20, 31, 20, 31):
        verification(*make(held), SCALE)
    assert made == [20, 31]


def test_mask_by_hand() -> None:
    visible = torch.tensor([[True, False], [True, True]])
    hidden = -math.inf
    expected = [[0, 0, 0, hidden], [0, 0, 0, 0]] * 3
    found = additive_mask(visible, 4, 3, torch.bfloat16)
    assert found.dtype == torch.bfloat16 and found.tolist() == expected


def test_a_gradient_passes_through_a_verification_and_not_through_the_function() -> None:
    query, keys, values = make(14)
    query = query.clone().requires_grad_()
    visible = ancestors("random", 5)
    assert not tree_attention(query, keys, values, visible, SCALE).weighted.requires_grad
    gradients = []
    for backend in ("torch", "reference"):
        (gradient,) = torch.autograd.grad(TreeVerification(visible, backend)(query, keys, values, SCALE).sum(), query)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_dispatch_refuses_what_cannot_run() -> None:
    tensors, visible = make(14), ancestors("random", 5)
    with pytest.raises(BackendUnavailable, match=r"triton.*cannot run.*ask for native, torch, reference"):
        tree_attention(*tensors, visible, SCALE, backend="triton")
    with pytest.raises(BackendUnavailable, match="no backend 'cuda'"):
        TreeVerification(visible, "cuda")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ancestors": torch.ones(5, 6, dtype=torch.bool)}, "must be"),
        ({"ancestors": torch.ones(5, dtype=torch.bool)}, "must be"),
        ({"ancestors": torch.ones(0, 0, dtype=torch.bool)}, "must be"),
        ({"ancestors": torch.ones(5, 5)}, "must be bool"),
        ({"ancestors": torch.ones(4, 4, dtype=torch.bool)}, "ancestors has 4 tokens"),
        ({"query": torch.zeros(6, 5, 16)}, "are needed"),
        ({"query": torch.zeros(0, 6, 5, 16)}, "none empty"),
        ({"query": torch.zeros(2, 6, 5, 16)}, "Batch and head_dim"),
        ({"query": torch.zeros(1, 6, 5, 8)}, "Batch and head_dim"),
        ({"query": torch.zeros(1, 5, 5, 16)}, "multiple of kv_heads"),
        ({"query": torch.zeros(1, 6, 5, 16, dtype=torch.bfloat16)}, "one floating point dtype"),
        ({"query": torch.zeros(1, 6, 5, 16, dtype=torch.long)}, "one floating point dtype"),
        ({"values": torch.zeros(1, 2, 13, 16)}, "are needed"),
        ({"keys": torch.zeros(1, 2, 4, 16), "values": torch.zeros(1, 2, 4, 16)}, "must hold them all"),
        ({"keys": torch.zeros(1, 2, 14, 16, device="meta")}, "keys is on meta"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    query, keys, values = make(14)
    arguments = {"query": query, "keys": keys, "values": values, "ancestors": ancestors("chain", 5), **change}
    with pytest.raises(ValueError, match=message):
        tree_attention(**arguments, scale=SCALE)


def test_arguments_are_left_as_they_were() -> None:
    tensors, visible = make(14), ancestors("random", 5)
    copies = [tensor.clone() for tensor in (*tensors, visible)]
    tree_attention(*tensors, visible, SCALE)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip((*tensors, visible), copies, strict=True))


def test_torch_path_runs_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from workbench_kernels.tree_attention import tree_attention\n"
        "ones = torch.ones(1, 1, 2, 4)\n"
        "print(tree_attention(ones, ones, ones, torch.eye(2, dtype=torch.bool), 1.0).backend)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "torch", done.stderr


def with_flags(flags: tuple[str, ...]) -> None:
    try:
        compiled(torch.float32, *flags)
    except BackendUnavailable as error:
        pytest.skip(f"this compiler does not know such a processor: {error}")


@native
@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.bfloat16, 8e-3)])
@pytest.mark.parametrize("head_dim", [1, 8, 20, 64, 80, 128])
def test_the_compiled_path_is_attention(head_dim: int, dtype: torch.dtype, tolerance: float, flags: tuple) -> None:
    with_flags(flags)
    generator = torch.Generator().manual_seed(head_dim)
    for tokens, held, heads, kv_heads in ((1, 1, 1, 1), (1, 33, 9, 3), (5, 47, 6, 2), (7, 64, 4, 4), (16, 130, 8, 1)):
        query = torch.randn(2, tokens, heads, head_dim, generator=generator).transpose(1, 2).to(dtype)
        keys, values = torch.randn(2, 2, kv_heads, held + 3, head_dim, generator=generator).to(dtype)[:, :, :, :held]
        visible = ancestors("random", tokens) | torch.eye(tokens, dtype=torch.bool)
        found = native_attention(query, keys, values, visible.to(torch.uint8), SCALE, *flags)
        expected = reference_attention(query, keys, values, visible, SCALE, dtype=torch.float64)
        assert found.dtype == dtype and error(found, expected) < tolerance, (tokens, held)


@native
@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_drafted_token_is_attended_bit_for_bit_as_one_that_came_alone(dtype: torch.dtype, flags: tuple) -> None:
    """Its siblings stand between it and its ancestors in the cache, and must leave no trace."""
    with_flags(flags)
    query, keys, values = make(70, heads=(6, 2), tokens=9, dtype=dtype)
    visible = (ancestors("random", 9) | torch.eye(9, dtype=torch.bool)).to(torch.uint8)
    together = native_attention(query, keys, values, visible, SCALE, *flags)
    one = torch.ones(1, 1, dtype=torch.uint8)
    for node in range(9):
        way = [*range(61), *(61 + place for place in range(9) if visible[node, place])]
        alone = native_attention(
            query[:, :, node : node + 1], keys[:, :, way].clone(), values[:, :, way].clone(), one, SCALE, *flags
        )
        assert torch.equal(alone[:, :, 0], together[:, :, node]), node


@native
def test_scores_far_apart_and_infinite_ones() -> None:
    query = torch.tensor([[[[1.0, 0.0]]]])
    keys = torch.tensor([[[[1000.0, 0.0], [0.0, 0.0], [-1000.0, 0.0]]]])
    values = torch.tensor([[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]])
    one = torch.ones(1, 1, dtype=torch.uint8)
    assert native_attention(query, keys, values, one, 1.0).flatten().tolist() == [1.0, 2.0]
    keys[..., 0] = torch.nan
    assert native_attention(query, keys, values, one, 1.0).isnan().all()


@native
def test_the_compiled_path_has_its_dtypes() -> None:
    assert [available(each) for each in (torch.float32, torch.bfloat16, torch.float16)] == [True, True, False]
    with pytest.raises(ValueError, match=r"float32 and bfloat16, not torch\.float64"):
        tree_attention(*make(9, dtype=torch.float64), ancestors("chain", 5), SCALE, backend="native")


def masked(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Attention in float64 where ``mask`` [tokens, held] or [kv_heads, tokens, held] is True."""
    groups = query.shape[1] // keys.shape[1]
    keys, values = (each.double().repeat_interleave(groups, 1) for each in (keys, values))
    logits = SCALE * (query.double() @ keys.transpose(2, 3))
    mask = mask if mask.ndim == 2 else mask.repeat_interleave(groups, 0)
    return logits.masked_fill(~mask, -torch.inf).softmax(-1) @ values


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 1, 7, 30, 500])
@pytest.mark.parametrize("tokens, held", [(1, 1), (1, 40), (5, 40), (40, 40), (33, 70)])
def test_a_chain_sees_its_window(tokens: int, held: int, window: int | None, dtype: torch.dtype) -> None:
    query, keys, values = make(held, tokens=tokens, dtype=dtype)
    distance = torch.arange(held - tokens, held)[:, None] - torch.arange(held)
    mask = (distance >= 0) & (distance < (window or held))
    found = native_attention(query, keys, values, None, SCALE, window=window)
    assert error(found, masked(query, keys, values, mask)) < (4e-3 if dtype == torch.bfloat16 else 2e-6)
    marked = native_attention(query, keys, values, mask.to(torch.uint8), SCALE)
    assert torch.equal(found, marked), "marks and a window are two ways to say the same"
    for token in range(tokens):
        seen = slice(held - tokens + token + 1)
        one = query[:, :, token : token + 1]
        alone = native_attention(one, keys[:, :, seen], values[:, :, seen], None, SCALE, window=window)
        assert torch.equal(alone[:, :, 0], found[:, :, token]), token


@native
def test_every_head_may_have_marks_of_its_own() -> None:
    query, keys, values = make(23, tokens=4)
    mask = torch.rand(2, 4, 23, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[..., -4:] |= torch.eye(4, dtype=torch.bool)
    found = native_attention(query, keys, values, mask.to(torch.uint8), SCALE)
    assert error(found, masked(query, keys, values, mask)) < 2e-6


SHAPED = {"capped": {"softcap": 1.5}, "sinks": {"sinks": True}, "both": {"softcap": 4.0, "sinks": True}}


@native
@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-6), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize("shaped", SHAPED)
def test_soft_caps_and_sinks(shaped: str, dtype: torch.dtype, tolerance: float, flags: tuple) -> None:
    with_flags(flags)
    for tokens, held, heads, kv_heads in ((1, 1, 1, 1), (1, 33, 9, 3), (5, 47, 6, 2), (16, 130, 8, 1)):
        query, keys, values = make(held, (heads, kv_heads), tokens, dtype)
        # Some sinks that take nearly all, and some that take nearly nothing.
        more = {**SHAPED[shaped]}
        if "sinks" in more:
            more["sinks"] = torch.linspace(6, -4, heads).to(dtype)
        visible = ancestors("random", tokens) | torch.eye(tokens, dtype=torch.bool)
        found = native_attention(query, keys, values, visible.to(torch.uint8), SCALE, *flags, **more)
        expected = reference_attention(query, keys, values, visible, SCALE, torch.float64, **more)
        plain = reference_attention(query, keys, values, visible, SCALE, torch.float64)
        assert error(found, expected) < tolerance, (tokens, held)
        assert held == 1 or error(plain, expected) > 4 * tolerance, "the case shows nothing"


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 7])
def test_a_capped_chain_with_sinks_is_attended_as_its_tokens_alone(window: int | None, dtype: torch.dtype) -> None:
    query, keys, values = make(70, tokens=33, dtype=dtype)
    more = {"softcap": 3.0, "sinks": torch.linspace(-2, 3, 6)}
    found = native_attention(query, keys, values, None, SCALE, window=window, **more)
    for token in range(33):
        seen, one = slice(38 + token), query[:, :, token : token + 1]
        alone = native_attention(one, keys[:, :, seen], values[:, :, seen], None, SCALE, window=window, **more)
        assert torch.equal(alone[:, :, 0], found[:, :, token]), token

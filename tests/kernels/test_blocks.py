"""Blocks in one call against the same steps taken one by one, bit for bit, on every kind of processor."""

import dataclasses

import pytest
import torch
from processors import TAKEN_AWAY

from workbench_kernels.activation import activate
from workbench_kernels.blocks import BackendUnavailable, Blocks, BlockWeights, NormWeights, Table, compiled
from workbench_kernels.few_rows import FewRows
from workbench_kernels.rms_norm import rms_norm
from workbench_kernels.rotary import rotate
from workbench_kernels.tree_attention.native import native_attention

WIDTH, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, HELD, ROOM = 40, 6, 2, 16, 72, 21, 64

try:
    compiled(torch.float32)
except BackendUnavailable as error:
    pytest.skip(f"nothing can be compiled here: {error}", allow_module_level=True)


def norm(generator, size, dtype, **more):
    return NormWeights((1 + 0.1 * torch.randn(size, generator=generator)).to(dtype), 1e-5, **more)


def weights(dtype, kind="plain", seed=0):
    generator = torch.Generator().manual_seed(seed)

    def linear(outputs, inputs):
        bias = torch.randn(outputs, generator=generator).to(dtype) if kind == "everything" else None
        return (0.2 * torch.randn(outputs, inputs, generator=generator)).to(dtype), bias

    gated = kind != "ungated"
    made = BlockWeights(
        query_key_value=linear((HEADS + 2 * KV_HEADS) * HEAD_DIM, WIDTH),
        attention_output=linear(WIDTH, HEADS * HEAD_DIM),
        up=linear(HIDDEN * (1 + gated), WIDTH),
        down=linear(WIDTH, HIDDEN),
        heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, scale=0.25, gated=gated,
        activation="silu" if gated else "gelu",
        attention_norm=norm(generator, WIDTH, dtype), mlp_norm=norm(generator, WIDTH, dtype), rope=0,
    )  # fmt: skip
    if kind == "everything":
        made = dataclasses.replace(
            made,
            attention_post_norm=norm(generator, WIDTH, torch.float32, late=True),
            mlp_post_norm=norm(generator, WIDTH, dtype),
            query_norm=norm(generator, HEAD_DIM, dtype), key_norm=norm(generator, HEAD_DIM, dtype),
            softcap=5.0, sinks=torch.linspace(-1, 2, HEADS), residual_multiplier=0.5, activation="gelu_tanh", window=7,
        )  # fmt: skip
    if kind == "halves":
        # One without attention, one without MLP, one with neither, in turn.
        gone = [("query_key_value", "attention_output"), ("up", "down")]
        names = {0: gone[0], 1: gone[1], 2: sum(gone, ())}[seed]
        made = dataclasses.replace(made, **dict.fromkeys(names))
    return dataclasses.replace(made, rope=-1, mlp_norm=None) if kind == "ungated" else made


def by_steps(block, x, keys, values, table, marks, flags):
    """The same with a kernel for each step."""
    dtype = x.dtype
    multiply = FewRows(dtype, *flags)

    def linear(which, rows):
        weight, bias = which
        out = multiply(rows, weight)
        return out if bias is None else out + bias

    def normed(which, rows):
        return rows if which is None else rms_norm(rows, which.weight, which.eps, which.late, *flags)

    def added(to, out, post):
        out = normed(post, out)
        return to + (out if block.residual_multiplier == 1 else out * block.residual_multiplier)

    def widened(x):
        if block.up is None:
            return x
        inner = linear(block.up, normed(block.mlp_norm, x))
        out = linear(block.down, activate(inner, block.activation, block.gated, *flags))
        return added(x, out, block.mlp_post_norm)

    if block.query_key_value is None:
        return widened(x), keys, values
    mixed = linear(block.query_key_value, normed(block.attention_norm, x)).view(1, len(x), -1, HEAD_DIM)
    query, key, value = mixed.split((HEADS, KV_HEADS, KV_HEADS), 2)
    query, key = normed(block.query_norm, query.contiguous()), normed(block.key_norm, key.contiguous())
    if block.rope >= 0:
        query, key = (rotate(each, table.cosine, table.sine, *flags) for each in (query, key))
    keys = torch.cat((keys, key.transpose(1, 2)), 2)
    values = torch.cat((values, value.transpose(1, 2)), 2)
    window = block.window or None if marks is None else None
    attended = native_attention(
        query.transpose(1, 2), keys, values, marks, block.scale, *flags,
        window=window, softcap=block.softcap or None, sinks=block.sinks,
    )  # fmt: skip
    x = added(x, linear(block.attention_output, attended.transpose(1, 2).flatten(2)[0]), block.attention_post_norm)
    return widened(x), keys, values


@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["plain", "ungated", "everything", "halves"])
def test_one_call_is_its_steps_bit_for_bit(kind, dtype, flags):
    try:
        compiled(dtype, *flags)
    except BackendUnavailable as error:
        pytest.skip(f"this compiler does not know such a processor: {error}")
    given = [weights(dtype, kind, seed) for seed in range(3)]
    generator = torch.Generator().manual_seed(9)
    for rows, tree, threads in ((1, False, 2), (5, False, 1), (9, True, 3), (70, False, 2)):
        run = Blocks(dtype, WIDTH, given, *flags)
        x = torch.randn(rows, WIDTH, generator=generator).to(dtype)
        angles = torch.randn(2, rows, 1, 8, generator=generator)
        table = Table(*angles.to(dtype)) if kind == "plain" else Table(*angles)
        marks = None
        if tree:
            marks = (torch.rand(rows, rows, generator=generator) < 0.4).tril() | torch.eye(rows, dtype=torch.bool)
            marks = marks.to(torch.uint8)
        buffers = torch.randn(3, 2, 1, KV_HEADS, ROOM + rows, HEAD_DIM, generator=generator).to(dtype)
        buffers[..., HELD:, :] = torch.nan
        untouched = buffers.clone()
        expected, entries = x, []
        for block, (keys, values) in zip(given, buffers):
            expected, *after = by_steps(block, expected, keys[:, :, :HELD], values[:, :, :HELD], table, marks, flags)
            entries.append(after)
        for cache, (keys, values) in zip(run.caches, buffers):
            cache.keys, cache.values, cache.head, cache.held = keys.data_ptr(), values.data_ptr(), keys.stride(1), HELD
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found = run(0, 3, x, [table], marks)
        finally:
            torch.set_num_threads(before)
        assert found.isfinite().all() and torch.equal(found, expected), rows
        for (keys, values), after in zip(buffers, entries):
            held = after[0].shape[2]
            assert torch.equal(keys[:, :, :held], after[0]) and torch.equal(values[:, :, :held], after[1])
            assert keys[:, :, held:].isnan().all()
        # Nothing behind the new entries is written.
        assert torch.equal(buffers[..., HELD + rows :, :].isnan(), untouched[..., HELD + rows :, :].isnan())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"up": (torch.ones(10, WIDTH), None)}, r"up is \[10, 40\], not \[144, 40\]"),
        ({"down": (torch.ones(HIDDEN, WIDTH).T, None)}, "down is not contiguous"),
        ({"down": (torch.ones(WIDTH, HIDDEN).bfloat16(), None)}, "down is not contiguous torch.float32"),
        ({"attention_norm": NormWeights(torch.ones(3), 1e-5)}, r"attention_norm is not a contiguous \[40\]"),
        ({"sinks": torch.ones(2)}, "sinks"),
        ({"activation": "relu"}, "no kernel for relu"),
        ({"up": None}, "its MLP has one of up and down"),
        ({"attention_output": None}, "its attention has one of"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Blocks(torch.float32, WIDTH, [dataclasses.replace(weights(torch.float32), **change)])


def test_other_dtypes_have_no_kernel():
    with pytest.raises(BackendUnavailable, match="float16"):
        Blocks(torch.float16, WIDTH, [])

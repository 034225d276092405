"""Tree attention: on the CPU beside other ways to write it in torch; on CUDA, is the kernel right, and what it costs.

``python tests/benchmarks/bench_tree_attention.py [--tokens 16 64 --held 512 2048 --layers 30 --rounds 20]`` times one
verification step: everything that is made for the step, and then all layers, each with keys of its own. The ways run
in turns, A B C A B C …, and the ratios are paired round by round. The tests of the op run first, and on red nothing is
timed; no way is timed whose result differs from the reference.

``python tests/benchmarks/bench_tree_attention.py --check [--sweep]`` needs a CUDA device, torch, triton and the folder
``kernels``, nothing else. It prints JSON lines: relative errors ``||out - reference|| / ||reference||`` of this op and
of the unembedding statistics against float64 (the exit status says whether all are small), then median milliseconds of
the kernel, of torch's attention with the same mask, and of torch's attention without one, which is the least a mask can
cost. ``--sweep`` adds block sizes and numbers of parts.
"""

import argparse
import importlib.util
import itertools
import json
import sys
import time
import types
from pathlib import Path

import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[2]
if importlib.util.find_spec("workbench_kernels") is None:
    sys.path.insert(0, str(ROOT / "kernels"))
if importlib.util.find_spec("jaxtyping") is None:  # only its annotations are met here, and nothing checks them
    shaped = type("Shaped", (), {"__class_getitem__": classmethod(lambda cls, item: item[0])})
    sys.modules["jaxtyping"] = types.ModuleType("jaxtyping")
    sys.modules["jaxtyping"].__dict__.update(Bool=shaped, Float=shaped, Int=shaped)

from workbench_kernels.tree_attention import TreeVerification, tree_attention  # noqa: E402
from workbench_kernels.tree_attention.grouped import additive_mask, grouped_attention  # noqa: E402
from workbench_kernels.tree_attention.reference import reference_attention  # noqa: E402

SMALL, LARGE = (9, 3, 64), (32, 8, 128)
"""Heads, KV heads and head_dim of a model of 135 million parameters, and of one of 8 billion."""
LIMITS = {torch.float32: 5e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


def random_tree(tokens: int, device: str = "cpu") -> torch.Tensor:
    """Ancestors of a tree in which every node hangs on a random earlier one."""
    generator = torch.Generator().manual_seed(tokens)
    visible = torch.eye(tokens, dtype=torch.bool)
    for node in range(1, tokens):
        visible[node] |= visible[int(torch.randint(node, (), generator=generator))]
    return visible.to(device)


def make(shape: tuple[int, int, int], tokens: int, held: int, dtype: torch.dtype, device: str = "cpu") -> tuple:
    """Query, and keys and values as views of a buffer with NaN behind what is held."""
    heads, kv_heads, head_dim = shape
    generator = torch.Generator(device).manual_seed(held + tokens)
    query = torch.randn(1, tokens, heads, head_dim, generator=generator, device=device).to(dtype).transpose(1, 2)
    buffers = torch.full((2, 1, kv_heads, held + 64, head_dim), torch.nan, dtype=dtype, device=device)
    buffers[:, :, :, :held] = torch.randn(2, 1, kv_heads, held, head_dim, generator=generator, device=device)
    return query, buffers[0, :, :, :held], buffers[1, :, :, :held]


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative distance; NaN when anything found is."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


# On the CPU


def in_two_parts(query, keys, values, mask, scale):
    """The cache without a mask and the tree with one; `mask` is additive, [groups * tokens, tokens]."""
    tokens = query.shape[2]
    grouped = query.reshape(query.shape[0], keys.shape[1], -1, query.shape[3])
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    far, far_log = attend(grouped, keys[:, :, :-tokens], values[:, :, :-tokens], scale=scale)
    near, near_log = attend(grouped, keys[:, :, -tokens:], values[:, :, -tokens:], attn_mask=mask, scale=scale)
    return torch.lerp(far, near, torch.sigmoid(near_log - far_log)[..., None].to(far.dtype)).reshape(query.shape)


def ways(visible: torch.Tensor, held: int, groups: int, dtype: torch.dtype) -> dict:
    """Name of a way, and a function that makes what a step needs and returns the attention of a layer."""
    tokens = len(visible)
    attend = functional.scaled_dot_product_attention

    def bool_mask():
        mask = torch.cat((visible.new_ones(tokens, held - tokens), visible), 1)
        return lambda q, k, v, scale: grouped_attention(q, k, v, mask.repeat(groups, 1), scale)

    def repeated():
        mask = additive_mask(visible, held, 1, dtype)
        return lambda q, k, v, scale: attend(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)

    def two_parts():
        mask = additive_mask(visible, tokens, groups, dtype)
        return lambda q, k, v, scale: in_two_parts(q, k, v, mask, scale)

    return {
        "the op": lambda: TreeVerification(visible),
        "a bool mask, repeated in every layer": bool_mask,
        "groups left to torch": repeated,
        "two parts": two_parts,
        "no mask (another result)": lambda: lambda q, k, v, scale: grouped_attention(q, k, v, None, scale),
    }


@torch.inference_mode()
def measure(shape: tuple, tokens: int, held: int, layers: int, dtype: torch.dtype, rounds: int) -> dict:
    """Seconds of a step by each way, in turns."""
    visible, scale = random_tree(tokens), shape[2] ** -0.5
    held += tokens
    query, keys, values = make(shape, tokens, held, dtype)
    cache = [(keys.clone(), values.clone()) for _ in range(layers)]
    expected = reference_attention(query, keys, values, visible, scale, dtype=torch.float64)
    calls = ways(visible, held, shape[0] // shape[1], dtype)
    for name, prepare in calls.items():
        wrong = error(prepare()(query, keys, values, scale), expected)
        if "another" not in name and not wrong < LIMITS[dtype]:
            sys.exit(f"no report: {name!r} is wrong by {wrong:.1e}")
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        names = list(calls)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            attend = calls[name]()
            for layer_keys, layer_values in cache:
                attend(query, layer_keys, layer_values, scale)
            seconds[name].append(time.perf_counter() - began)
    return {name: times[1:] for name, times in seconds.items()}  # the first turn warms up


def compare(options: argparse.Namespace) -> None:
    """The report on the CPU."""
    from _report import passing, ratio, table, write

    passing("tests/kernels/test_tree_attention.py")
    rows = []
    for dtype, tokens, held in itertools.product((torch.bfloat16, torch.float32), options.tokens, options.held):
        seconds = measure(SMALL, tokens, held, options.layers, dtype, options.rounds)
        for name, times in seconds.items():
            each = sorted(times)[len(times) // 2] / options.layers * 1e6
            label = str(dtype).removeprefix("torch.")
            rows.append([label, tokens, held, name, f"{each:.0f}", ratio(times, seconds["the op"])])
    note = (
        f"Measured, {torch.get_num_threads()} threads, {options.layers} layers, {options.rounds} rounds in turns; "
        f"{SMALL[0]} heads over {SMALL[1]} of {SMALL[2]}. The last column: times the op's seconds, 95 % interval."
    )
    write("tree_attention", note, table(["dtype", "tokens", "cache", "way", "µs a layer", "beside the op"], rows))


# On CUDA


def say(**facts) -> None:
    print(json.dumps(facts), flush=True)


def check_attention() -> bool:
    """Relative errors of the kernel and of torch's own attention, the worst of every shape and dtype."""
    right = True
    for shape, dtype in itertools.product((SMALL, LARGE, (4, 4, 80), (8, 1, 256), (6, 2, 16)), LIMITS):
        worst: dict[str, float] = {"triton": 0.0, "torch": 0.0}
        for tokens, earlier in itertools.product((1, 16, 33, 128), (0, 1, 63, 64, 1000, 8191)):
            tensors = make(shape, tokens, tokens + earlier, dtype, "cuda")
            for visible in (random_tree(tokens, "cuda"), torch.eye(tokens, dtype=torch.bool, device="cuda")):
                given = (*tensors, visible, shape[2] ** -0.5)
                expected = reference_attention(*given, dtype=torch.float64)
                for backend, before in worst.items():
                    found = tree_attention(*given, backend=backend)
                    wrong = error(found.weighted, expected)
                    worst[backend] = wrong if not wrong <= before else before  # a NaN stays
        small = worst["triton"] < LIMITS[dtype]
        right &= small
        say(check="tree_attention", shape=shape, dtype=str(dtype), worst=worst, limit=LIMITS[dtype], small=small)
    assert tree_attention(*given).backend == "triton", "the kernel is not what CUDA tensors get unasked"
    return right


def check_unembedding() -> bool:
    """Relative errors of the other op's kernel; the ids are compared where the logits of neighbours differ enough."""
    from workbench_kernels.unembed_statistics import Norm, unembed_statistics
    from workbench_kernels.unembed_statistics.reference import reference_statistics

    right = True
    for rows, dtype in itertools.product((1, 65), (torch.float32, torch.float16, torch.bfloat16)):
        generator = torch.Generator("cuda").manual_seed(rows)
        residual = torch.randn(rows, 576, generator=generator, device="cuda").to(dtype)
        weight = (torch.randn(49152, 576, generator=generator, device="cuda") / 8).to(dtype)
        target = torch.randint(49152, (rows,), generator=generator, device="cuda")
        found = unembed_statistics(residual, weight, target=target, top_k=8)
        expected = reference_statistics(residual, weight, Norm(), None, 1.0, None, target, 8, dtype=torch.float64)
        names = ("top_logits", "log_sum_exp", "entropy", "target_logit")
        errors = {name: error(getattr(found, name), expected[name]) for name in names}
        same = float((found.top_ids == expected["top_ids"]).double().mean())
        small = found.backend == "triton" and max(errors.values()) < 1e-4 and same > 0.99
        right &= small
        say(check="unembed_statistics", rows=rows, dtype=str(dtype), errors=errors, same_ids=same, small=small)
    return right


def time_on_device(sweep: bool) -> None:
    """Median milliseconds with a cold second-level cache, and microseconds of the host per call of the kernel."""
    import triton
    from triton.testing import do_bench

    from workbench_kernels.tree_attention.kernel import triton_attention

    for shape, tokens, earlier in itertools.product((SMALL, LARGE), (16, 64), (1024, 8192, 32768)):
        query, keys, values = make(shape, tokens, tokens + earlier, torch.bfloat16, "cuda")
        visible, scale = random_tree(tokens, "cuda"), shape[2] ** -0.5
        verification = TreeVerification(visible)
        mask = additive_mask(visible, tokens + earlier, shape[0] // shape[1], query.dtype)
        calls = {
            "kernel": lambda: verification(query, keys, values, scale),  # noqa: B023
            "torch_masked": lambda: grouped_attention(query, keys, values, mask, scale),  # noqa: B023
            "torch_dense": lambda: grouped_attention(query, keys, values, None, scale),  # noqa: B023
        }
        found = {name: do_bench(call, return_mode="median") for name, call in calls.items()}
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(50):
            calls["kernel"]()
        host = (time.perf_counter() - began) / 50 * 1e6
        gigabytes = 2 * keys.numel() * keys.element_size() / found["kernel"] / 1e6
        facts = {name: round(value, 4) for name, value in found.items()}
        say(
            shape=shape,
            tokens=tokens,
            cache=earlier,
            **facts,
            host_us=round(host),
            gigabytes_per_second=round(gigabytes),
        )
        if not sweep or earlier == 1024:
            continue
        marks = visible.to(torch.uint8)
        for rows, block_keys, parts in itertools.product((16, 32, 64, 128), (32, 64, 128), (None, 16, 32, 64, 128)):
            settings = {"blocks": (rows, block_keys), "parts": parts}
            try:
                spent = do_bench(
                    lambda: triton_attention(query, keys, values, marks, scale, **settings),  # noqa: B023
                    warmup=5, rep=20, return_mode="median",
                )  # fmt: skip
            except triton.OutOfResources:
                continue
            say(sweep=settings, shape=shape, tokens=tokens, cache=earlier, kernel=round(spent, 4))


def check(options: argparse.Namespace) -> int:
    """Everything on CUDA; the exit status says whether all errors are small."""
    if not torch.cuda.is_available():
        sys.exit("--check needs a CUDA device")
    import triton

    say(device=torch.cuda.get_device_name(), torch=torch.__version__, triton=triton.__version__)
    right = check_attention() & check_unembedding()
    if not right:
        print("Some errors are not small; nothing is timed.")
        return 1
    time_on_device(options.sweep)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--held", type=int, nargs="+", default=[512, 2048], help="entries of the cache before the tree")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--check", action="store_true", help="on CUDA: errors, then times")
    parser.add_argument("--sweep", action="store_true", help="with --check: block sizes and parts too")
    options = parser.parse_args()
    if options.check:
        return check(options)
    compare(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

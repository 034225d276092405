"""Traces and studies with the shape of real ones, made from a formula and a seed, with a vocabulary full of traps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from workbench import trace
from workbench.trace import variable

MARKUP = "</script><img src=x onerror=alert(1)>"
TRAPS = [MARKUP, "\n", " ", "\t", "<b>", "\u202e", "\u2028", "日本", "", '"', "\\", "'", "&amp;", "\x00", "{{", "é"]
WORDS = [
    " the",
    " cap",
    "ital",
    " of",
    " France",
    " is",
    " Paris",
    ".",
    ",",
    " and",
    " def",
    " return",
    " extra",
    "ordinary",
]
VOCABULARY = [*WORDS, *TRAPS]


@dataclass
class Model:
    """What :func:`workbench.trace.build` asks of a model."""

    name: str = "tiny-llama"
    revision: str = "none"
    dtype: str = "float32"
    device: str = "cpu"
    arithmetic: str = "torch 0, 1 threads"

    def pieces(self, ids: list[int]) -> list[str]:
        return [VOCABULARY[i] for i in ids]

    def label(self, token: int) -> str:
        return VOCABULARY[token]


def _dataset(variables: dict[str, xr.Variable], **coords: Any) -> xr.Dataset:
    return xr.Dataset(variables, {name: np.asarray(values) for name, values in coords.items()})


def ids(tokens: int, seed: int = 0) -> np.ndarray:
    """Token ids with every trap among the last of them."""
    drawn = np.random.default_rng(seed).integers(0, len(WORDS), tokens)
    traps = np.arange(len(WORDS), len(VOCABULARY))[: max(tokens - 4, 0)]
    if len(traps):
        drawn[-len(traps) :] = traps
    return drawn


def observed(
    tokens: int = 40, layers: int = 12, heads: int = 6, experts: int = 8, model: str = "tiny-llama"
) -> xr.DataTree:
    """A trace with all five probes."""
    rng = np.random.default_rng(1)
    depth, blocks = np.arange(-1, layers), np.arange(layers)
    late = (np.arange(layers + 1) / layers)[:, None]
    chance = np.clip(0.02 + 0.9 * late**2 * rng.uniform(0.4, 1, (layers + 1, tokens)), 0, 1)
    top = rng.integers(0, len(VOCABULARY), (layers + 1, tokens, 5))
    top[layers * 3 // 4 :, :, 0] = top[-1, :, 0]
    lens = _dataset(
        {
            "top_token": variable("layer token candidate", top.astype(np.int32), "token id", "best tokens"),
            "top_probability": variable(
                "layer token candidate", chance[..., None] * 0.5 ** np.arange(5), "probability", "their probability"
            ),
            "entropy": variable("layer token", 10.8 * (1 - chance), "nats", "entropy"),
            "kl_to_last": variable("layer token", 9 * (1 - late) * chance, "nats", "KL divergence"),
            "final_token": variable("token", top[-1, :, 0].astype(np.int32), "token id", "best token"),
            "final_rank": variable("layer token", (49000 * (1 - late) ** 3 * chance).astype(int), "rank", "rank"),
            "final_probability": variable("layer token", chance * late, "probability", "probability"),
            "settle_layer": variable("token", np.full(tokens, layers * 3 // 4 - 1), "layer", "settling layer"),
        },
        layer=depth,
        token=np.arange(tokens),
        candidate=np.arange(5),
    )
    edges = [0, *(2**power for power in range((tokens - 1).bit_length()))]
    sampled = np.unique(np.linspace(0, tokens - 1, min(256, tokens)).round().astype(int))
    step, width = -(-len(sampled) // 128), -(-tokens // 128)
    queries, keys = sampled[::step], np.arange(-(-tokens // width)) * width
    scores = np.where(keys[None] <= queries[:, None], np.exp(-np.abs(queries[:, None] - keys[None]) / 9) + 0.01, 0)
    scores[:, 0] += 0.3
    shares = rng.uniform(0.02, 0.8, (layers, heads))
    spread = rng.dirichlet(np.ones(len(edges)), (layers, heads))
    sparsity = _dataset(
        {
            "keys_needed": variable(
                "layer head mass", shares[..., None] * tokens * np.array([0.5, 0.6, 1]), "keys", "keys needed"
            ),
            "keys_needed_share": variable("layer head mass", shares[..., None] * [0.5, 0.6, 1], "1", "share needed"),
            "entropy": variable("layer head", 5 * shares, "nats", "attention entropy"),
            "first_share": variable("layer head", 1 - shares, "1", "mass on the first 4 tokens"),
            "recent_share": variable("layer head", shares / 2, "1", "mass on the last 64 tokens"),
            "distance_histogram": variable("layer head distance_bin", spread, "1", "mass by distance"),
            "map": variable(
                "query_bin key_bin", scores / scores.sum(1, keepdims=True), "probability", "attention", layer=3, head=2
            ),
        },
        layer=blocks, head=np.arange(heads), mass=[0.9, 0.95, 0.99],
        distance_bin=edges, query_bin=queries, key_bin=keys,
    ).assign_attrs(queries=len(sampled))  # fmt: skip
    apart = np.abs(depth[:, None] - depth[None])
    span = np.arange(1, layers + 1)
    angle = np.where(
        blocks[:, None] + span[None] <= layers, 0.05 * np.sqrt(span)[None] + 0.002 * blocks[:, None], np.nan
    )
    influence = rng.uniform(0.01, 0.3, layers)
    similarity = _dataset(
        {
            "cka": variable("layer other_layer", np.exp(-apart / layers) / 2, "1", "debiased linear CKA"),
            "cka_directions": variable("layer other_layer", np.exp(-apart / layers), "1", "debiased linear CKA"),
            "input_output_cosine": variable("block", 1 - influence, "1", "cosine"),
            "block_influence": variable("block", influence, "1", "block influence"),
            "angular_distance": variable("start_layer span", angle, "1", "angular distance"),
        },
        layer=depth, other_layer=depth, block=blocks, start_layer=blocks, span=span,
    )  # fmt: skip
    pairs = rng.uniform(0, 0.1, (layers, experts, experts))
    load = rng.dirichlet(np.full(experts, 4.0), layers)
    mixture = _dataset(
        {
            "load": variable("layer expert", load, "1", "share of assignments"),
            "router_entropy": variable("layer", rng.uniform(1, 2, layers), "nats", "router entropy"),
            "coactivation": variable("layer expert other_expert", (pairs + pairs.swapaxes(1, 2)) / 2, "1", "share"),
        },
        layer=blocks * 2, expert=np.arange(experts), other_expert=np.arange(experts),
    )  # fmt: skip
    residual = _dataset(
        {
            "attention_share": variable("block", rng.uniform(0.05, 0.5, layers), "1", "attention share"),
            "mlp_share": variable("block", rng.uniform(0.1, 0.9, layers), "1", "MLP share"),
            "attention_cosine": variable("block", rng.uniform(-0.3, 0.3, layers), "1", "attention cosine"),
            "mlp_cosine": variable("block", rng.uniform(-0.5, 0.3, layers), "1", "MLP cosine"),
            "skip_kl": variable("block", rng.exponential(0.2, layers) + 6 * (blocks == 0), "nats", "KL when skipped"),
            "skip_top1_change": variable("block", rng.uniform(0, 0.5, layers), "1", "top token changes"),
        },
        block=blocks,
    )
    probes = {"logit_lens": lens, "attention_sparsity": sparsity, "layer_similarity": similarity}
    probes |= {"expert_coactivation": mixture, "residual_contribution": residual}
    groups = {"tokens": trace.tokens(ids(tokens)), **{f"probes/{name}": data for name, data in probes.items()}}
    used = range(len(VOCABULARY))
    return trace.build(groups, model=Model(model), kind="observe", recipe=list(probes), used=used)


RUNS = [
    ("baseline", "", True, 1.0, 0),
    ("prompt lookup", "prompt_lookup:ngram=3", True, 1.42, 4),
    ("half the KV cache", "snap_kv:keep=0.5", False, 1.06, 0),
    ("random eviction", "random_eviction:keep=0.5", False, 1.07, 0),
    ("layer skip", "unified_layer_skip:speedup=1.5", False, 1.41, 0),
    ("both <b>&</b> " + MARKUP, "prompt_lookup+snap_kv:keep=0.5", False, 1.44, 4),
    ("draft model", "draft_model:model=tiny", True, 0.83, 3),
    ("streaming", "streaming_llm:window=256", False, 1.05, 0),
    # In studies of more than eight runs:
    *((f"lookup {draft}", f"prompt_lookup:draft={draft}", True, 1.2, draft) for draft in (2, 3, 5)),
]


def mapped(layers: int = 6, others: int = 10, model: str = "tiny-llama") -> xr.DataTree:
    """Linear maps between the layers of two models, best at the same relative depth."""
    depth, other = np.arange(-1, layers), np.arange(-1, others)
    apart = np.abs(np.linspace(0, 1, layers + 1)[:, None] - np.linspace(0, 1, others + 1))
    best = apart.argmin(0)
    data = _dataset(
        {
            "error": variable("layer other_layer", 0.2 + 1.2 * apart, "1", "share left unexplained"),
            "best_layer": variable("other_layer", depth[best], "layer", "layer that fits best"),
            "best_depth": variable("other_layer", best / layers, "1", "its relative depth"),
            "own_depth": variable("other_layer", np.linspace(0, 1, others + 1), "1", "relative depth"),
        },
        layer=depth,
        other_layer=other,
    ).assign_attrs(other="</script>deep")
    groups = {"tokens": trace.tokens(ids(8)), "layer_maps": data}
    return trace.build(groups, model=Model(model), kind="observe", recipe={}, used=range(len(VOCABULARY)))


def budgets(count: int = 4, model: str = "tiny-llama") -> xr.DataTree:
    """Budgets of which every other one is met."""
    asked = np.linspace(0.7, 1, count)
    data = {}
    for kind in ("average", "peak", "memory"):
        for what, off in (("asked", 0), ("promised", -0.01), ("met", 0.02 * (-1) ** np.arange(count))):
            data[f"{kind}_{what}"] = variable("budget", asked + off, "1", f"{kind}, {what}")
    data["layers"] = variable("budget", 30 * asked, "layers", "layers")
    data["agreement"] = variable("budget", asked, "1", "top-1 agreement")
    groups = {"tokens": trace.tokens(ids(8)), "budget": _dataset(data, budget=np.arange(count))}
    names = [f"budgeted_exit:average={each:g} {MARKUP}" for each in asked]
    used = range(len(VOCABULARY))
    return trace.build(groups, model=Model(model), kind="observe", recipe={}, used=used, budgets=names)


def routed(budgets: int = 5, places: int = 20, model: str = "tiny-llama") -> xr.DataTree:
    """Losses of an oracle, a router and chance that fall with the number of big MLPs."""
    rng, big, chances = np.random.default_rng(4), np.arange(budgets), np.array([0.1, 0.5, 0.9])
    fall = 3 * np.exp(-big / budgets)[:, None] + rng.uniform(0, 1, (budgets, places))
    losses = {"oracle_loss": fall, "best_random_loss": fall + 1, "random_loss": fall + 2}
    data = {name: variable("budget place", value, "nats", name) for name, value in losses.items()}
    data |= {
        "router_loss": variable("chance place", rng.uniform(3, 4, (3, places)), "nats", "router"),
        "router_big": variable("chance place", np.full((3, places), 2.0), "MLPs", "big MLPs"),
        "whole_loss": variable("place", rng.uniform(1, 2, places), "nats", "whole"),
        "gap": variable("chance", chances, "nats", "gap"),
    }
    made = _dataset(data, budget=big, chance=chances, place=np.arange(places)).assign_attrs(layers=budgets - 1)
    groups = {"tokens": trace.tokens(ids(8)), "routing_gap": made}
    return trace.build(groups, model=Model(model), kind="observe", recipe={}, used=range(len(VOCABULARY)))


def calibrated(places: int = 4, model: str = "tiny-llama") -> xr.DataTree:
    """Three readers of exits, the first too sure, read at some layers."""
    rng = np.random.default_rng(8)
    shape = (3, places + 1, 2, 10)
    middle = np.linspace(0.05, 0.95, 10)
    share = np.clip(middle * np.array([0.6, 0.9, 1])[:, None, None, None] + rng.uniform(-0.04, 0.04, shape), 0, 1)
    count = rng.integers(1, 90, (*shape[:2], 10))
    data = {
        "count": variable("reader place bin", count, "tokens", "tokens in the bin"),
        "tokens": variable("reader place", count.sum(-1), "tokens", "tokens"),
        "confidence": variable("reader place bin", np.broadcast_to(middle, count.shape), "probability", "confidence"),
        "share": variable("reader place target bin", share, "1", "share right"),
        "low": variable("reader place target bin", np.clip(share - 0.05, 0, 1), "1", "low"),
        "high": variable("reader place target bin", np.clip(share + 0.05, 0, 1), "1", "high"),
        "accuracy": variable("reader place target", share.mean(-1), "1", "share right"),
        "error": variable("reader place target", np.abs(share - middle).mean(-1), "1", "calibration error"),
        "cutoff": variable("reader", np.array([0.9, 0.8, np.nan]), "probability", "cut-off"),
        "layers": variable("reader", np.array([9.0, 8.5, 8.0]), "layers", "layers a token"),
    }
    groups = {"tokens": trace.tokens(ids(8)), "exit_calibration": _dataset(data, reader=np.arange(3))}
    names = {"readers": ["logit lens", MARKUP, "joint exits"], "places": [*range(6, 6 + places), -1]}
    return trace.build(
        groups, model=Model(model), kind="observe", recipe={}, used=range(len(VOCABULARY)),
        targets=["full model", "text"], **names,
    )  # fmt: skip


def frontier(count: int = 4, prompts: int = 6, references: int = 6, model: str = "tiny-llama") -> xr.DataTree:
    """Exits of which each saves more and loses more than the one before."""
    saved = np.linspace(0, 0.6, count)
    data = {"scores": variable("setting prompt", np.ones((count, prompts)), "1", "ROUGE-L")}
    for name, values in (
        ("layers_saved", saved), ("flops_saved", saved - 0.05), ("rouge_l", 1 - saved**2),
        ("rouge_l_reference", 0.4 - saved / 3), ("reference_lost", saved / 2), ("written", 1 - saved / 3),
    ):  # fmt: skip
        for end, off in (("", 0), ("_low", -0.02), ("_high", 0.02)):
            data[name + end] = variable("setting", values + off, "1", name)
    names = ["full depth", *(f"exit {place} {MARKUP}" for place in range(1, count))]
    found = _dataset(data, setting=np.arange(count)).assign_attrs(
        settings=json.dumps(names), by="words", within=0.02, prompts=prompts, references=references, best=1,
        best_reference=0,
    )  # fmt: skip
    groups = {"tokens": trace.tokens(ids(8)), "exit_frontier": found}
    return trace.build(groups, model=Model(model), kind="observe", recipe={}, used=range(len(VOCABULARY)))


def right(layers: int = 8, judged: bool = True, model: str = "tiny-llama") -> xr.DataTree:
    """Layers of which each is right of more tokens than the one before, and a classifier of them."""
    share = np.linspace(0.1, 0.6, layers)
    data = {"never": variable("", 0.3, "1", "never right")}
    kinds = {"right": ("layer", share), "so_far": ("layer", share + 0.1)}
    if judged:
        names = ("exit_precision", "exit_recall", "stop_precision", "stop_recall")
        kinds |= {name: ("asked", share[:-1]) for name in names}
    for name, (dim, values) in kinds.items():
        for end, off in (("", 0), ("_low", -0.02), ("_high", 0.02)):
            data[name + end] = variable(dim, values + off, "1", name)
    places = {"layer": np.arange(layers)} | ({"asked": np.arange(layers - 1)} if judged else {})
    found = _dataset(data, **places).assign_attrs(texts=9, tokens=1234)
    groups = {"tokens": trace.tokens(ids(8)), "layers_right": found}
    return trace.build(groups, model=Model(model), kind="observe", recipe={}, used=range(len(VOCABULARY)))


def study(runs: int = 8, prompts: int = 5, repeats: int = 3, tokens: int = 64) -> xr.DataTree:
    """A study of up to eight runs, whose text holds every trap."""
    rng = np.random.default_rng(2)
    shape = (runs, prompts)
    steps = _steps(rng, shape, tokens)
    counts = {
        name: np.nansum(np.where(steps[name] < 0, 0, steps[name]), 2)
        for name in ("drafted", "accepted", "flops", "bytes")
    }
    faster = np.array([run[3] for run in RUNS[:runs]])[:, None, None]
    seconds = 0.02 * tokens / faster * rng.normal(1, 0.03, (*shape, repeats))
    loss = np.array([0 if run[2] else 0.03 + 0.04 * i for i, run in enumerate(RUNS[:runs])])[:, None]
    agreement = np.clip(1 - loss * rng.uniform(0.3, 1.7, shape), 0, 1)
    exact = np.repeat(np.array([[run[2]] for run in RUNS[:runs]], dtype=int), prompts, 1)

    def by_prompt(values: Any, units: str, name: str) -> xr.Variable:
        return variable("run prompt", np.broadcast_to(values, shape).astype(float), units, name)

    forwards = (steps["tokens"] >= 0).sum(2)
    scores = {
        "new_tokens": by_prompt(tokens, "tokens", "new tokens"),
        "forwards": by_prompt(forwards, "forwards", "forwards"),
        "drafted": by_prompt(counts["drafted"], "tokens", "drafted"),
        "accepted": by_prompt(counts["accepted"], "tokens", "accepted"),
        "flops": by_prompt(counts["flops"], "FLOP", "operations, counted"),
        "bytes": by_prompt(counts["bytes"], "bytes", "bytes moved, counted"),
        "cache_bytes_peak": by_prompt(23e6 * np.where(loss > 0, 0.5, 1), "bytes", "largest cache"),
        "equal_to_baseline": by_prompt(exact, "1", "equal to the baseline"),
        "kl": by_prompt((1 - agreement) * 0.8, "nats", "KL divergence"),
        "top1_agreement": by_prompt(agreement, "1", "top-1 agreement"),
        "perplexity": by_prompt(6 + 20 * (1 - agreement), "1", "perplexity"),
        "rouge_l": by_prompt(agreement**2, "1", "ROUGE-L"),
        "score": by_prompt(np.nan, "1", "task score"),
    }
    timing = {
        "seconds": variable("run prompt repeat", seconds, "s", "wall clock, measured"),
        "speedup": variable("run prompt repeat", seconds[:1] / seconds, "1", "speed-up, measured"),
        "tokens_per_second": variable("run prompt repeat", tokens / seconds, "tokens/s", "speed, measured"),
    }
    slow = np.array([1.0, 4.0])
    modelled = {
        "seconds": variable("run prompt hardware", seconds[..., :1] / 9 * slow, "s", "seconds, modelled"),
        "speedup": variable(
            "run prompt hardware", (seconds[:1, :, :1] / seconds[..., :1]) ** 1.3 + 0 * slow, "1", "modelled"
        ),
    }
    units = {
        "seconds": "s",
        "draft_seconds": "s",
        "verify_seconds": "s",
        "layers": "layers",
        "keys_read": "keys",
        "flops": "FLOP",
        "bytes": "bytes",
    }
    facts = {name: variable("run prompt step", data, units.get(name, "tokens"), name) for name, data in steps.items()}
    groups = {
        "scores": xr.Dataset(scores), "timing": xr.Dataset(timing), "modelled": xr.Dataset(modelled),
        "steps": xr.Dataset(facts), "text": _text(steps, shape, tokens),
        "drafts": drafts(steps, shape), "layers": _layers(steps),
    }  # fmt: skip
    named = [
        {"name": name, "technique": spec, "exact_declared": exact, "simulated": False}
        for name, spec, exact, *_ in RUNS[:runs]
    ]
    asked = [
        {"id": f"{MARKUP} {i}", "task": ("chat", f"<b>{MARKUP}")[i % 2], "text": f"Say {MARKUP}\nnow\u202e"}
        for i in range(prompts)
    ]
    return trace.build(
        groups, model=Model(), kind="study", recipe=[run["technique"] for run in named], used=range(len(VOCABULARY)),
        runs=named, prompts=asked, hardware=["H100", "RTX 4090"], baseline=0,
    )  # fmt: skip


STATUSES = ("exact together", "runs", "excluded", "does not apply", "fails")


def compatibility(techniques: int = 9) -> xr.DataTree:
    """A matrix in which every status comes, with a reason for each that has one."""
    listed = [
        {"name": f"technique_{i}", "slots": [("draft", "evict", "accept")[i % 3]], "exact": i % 2 == 0, "example": ""}
        for i in range(techniques)
    ]
    places = np.arange(techniques)
    status = ((places[:, None] + places[None]) % len(STATUSES)).astype(np.int8)
    status[places, places] = -1
    under = ((places[:, None] + np.arange(4)[None]) % 2).astype(np.int8)
    data = {
        "status": variable("technique other", status, "status", "whether two techniques go together"),
        "condition_status": variable("technique condition", under, "status", "whether it runs under a condition"),
    }
    reasons = {
        f"technique_{i} + technique_{k}": f"{STATUSES[status[i, k]]}: {MARKUP}\n"
        for i in range(techniques)
        for k in range(i + 1, techniques)
        if status[i, k] >= 2
    }
    return trace.build(
        {"compatibility": xr.Dataset(data)}, model=Model(), kind="compatibility", recipe=[], used=(), techniques=listed,
        statuses={name: "meaning" for name in STATUSES}, reasons=reasons,
        conditions={name: "meaning" for name in ("alone", "sampling", "stop tokens", "cancellation")},
    )  # fmt: skip


def training(steps: int = 60) -> xr.DataTree:
    """The course of a training with a loss and two accuracies."""
    falling = 3 * np.exp(-np.arange(1, steps + 1) / steps)
    groups = {}
    for group, places in (("training", np.arange(1, steps + 1)), ("held_out", np.arange(steps // 5, steps + 1, 5))):
        figures = {"loss": falling[places - 1], "accuracy_1": 0.8 - 0.2 * falling[places - 1]}
        figures |= {"accuracy_2": 0.6 * figures["accuracy_1"]}
        data = {
            name: variable("step", values, "nats" if name == "loss" else "1", name) for name, values in figures.items()
        }
        groups[group] = xr.Dataset(data, coords={"step": variable("step", places, "steps", "steps taken")})
    attrs = {"name": f"a_recipe {MARKUP}", "model": MARKUP, "card": "{}"}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **groups})


def _steps(rng: np.random.Generator, shape: tuple[int, int], tokens: int) -> dict[str, np.ndarray]:
    names = ("tokens", "drafted", "accepted", "layers")
    found = {name: np.full((*shape, tokens), -1, dtype=np.int32) for name in names}
    found |= {
        name: np.full((*shape, tokens), np.nan)
        for name in ("keys_read", "seconds", "draft_seconds", "verify_seconds", "flops", "bytes")
    }
    found["forwards"] = np.full((*shape, tokens), -1, dtype=np.int32)
    for run, prompt in np.ndindex(shape):
        left, step, drafts = tokens, 0, RUNS[run][4]
        while left:
            accepted = min(int(rng.integers(0, drafts + 1)), left - 1) if step and drafts else 0
            at = (run, prompt, step)
            found["tokens"][at], found["accepted"][at], found["drafted"][at] = (
                accepted + 1,
                accepted,
                drafts if step else 0,
            )
            found["layers"][at] = 20 if "skip" in RUNS[run][0] else 30
            found["keys_read"][at] = (200 + tokens - left) * (0.5 if "KV" in RUNS[run][0] else 1)
            found["seconds"][at] = 0.4 if step == 0 else rng.gamma(40, 0.0005) * (1 + 0.1 * accepted)
            found["draft_seconds"][at] = 0.0002 * drafts
            found["verify_seconds"][at] = 0.9 * found["seconds"][at] - found["draft_seconds"][at]
            found["forwards"][at] = 1
            found["flops"][at] = (256 if step == 0 else 1 + drafts) * 2.7e8
            found["bytes"][at] = 5.4e8 + 2e4 * (tokens - left)
            left, step = left - accepted - 1, step + 1
    return found


def _layers(tokens: np.ndarray, layers: int = 30) -> xr.Dataset:
    """Passes of layers: the second run leaves after block 17, 23 or never, in turn, with three passes of them."""
    passes = np.where(tokens[..., None] >= 0, 1, -1) * np.ones(layers, dtype=np.int16)
    if len(passes) > 1:
        exits = np.array([18, 24, layers])[np.arange(tokens.shape[-1]) % 3]
        passes[1] = np.where((np.arange(layers) < exits[:, None]) & (passes[1] > 0), 3, passes[1])
    return xr.Dataset({"passes": variable("run prompt step layer", passes.astype(np.int16), "passes", "passes")})


def drafts(steps: dict[str, np.ndarray], shape: tuple[int, int]) -> xr.Dataset:
    """Drafts of every step: a chain of what was accepted and rejected, and in every second step a sibling of each.

    The drafter is sure of what is kept (0.9) and less so of the rest (0.3); a sibling has no chance given.
    """
    rows = []
    for at in np.ndindex(steps["drafted"].shape):
        if at[2] == 0 or steps["drafted"][at] <= 0:
            continue
        last = -1
        for place in range(steps["drafted"][at]):
            depth, kept = place + 1, int(place < steps["accepted"][at])
            token = (at[1] * 31 + at[2] * 7 + place) % len(VOCABULARY)
            parent, last = last, last + 1 if at[2] % 2 else (2 * place)
            rows.append((*at, token, parent, depth, kept, 0.9 if kept else 0.3))
            if at[2] % 2 == 0:
                rows.append((*at, (token + 5) % len(VOCABULARY), parent, depth, 0, np.nan))
    names = {"run": "run", "prompt": "prompt", "step": "step", "token": "token id", "parent": "node",
             "depth": "tokens", "kept": "1", "confidence": "probability"}  # fmt: skip
    table = np.array(rows, dtype=float).reshape(-1, len(names)).T
    data = {
        name: variable("node", values.astype(np.float32 if name == "confidence" else np.int32), units, name)
        for (name, units), values in zip(names.items(), table)
    }
    return xr.Dataset(data, {"node": np.arange(len(rows))})


def _layers(steps: dict[str, np.ndarray]) -> xr.Dataset:
    """A step that runs fewer layers than 30 skips the first ones after layer 4, which runs twice."""
    place = np.arange(30)
    left_out = 31 - steps["layers"][..., None]
    passes = np.where((place > 4) & (place <= 4 + left_out), 0, 1) + (place == 4)
    passes = np.where(left_out > 1, passes, 1)
    passes = np.where(steps["layers"][..., None] < 0, -1, passes).astype(np.int16)
    return xr.Dataset({"passes": variable("run prompt step layer", passes, "passes", "times the layer ran")})


def _text(steps: dict[str, np.ndarray], shape: tuple[int, int], tokens: int) -> xr.Dataset:
    made, draft = (np.full((*shape, tokens), -1, dtype=np.int32) for _ in range(2))
    words = np.broadcast_to(ids(tokens, 3), (*shape, tokens)).astype(np.int32)
    for run, prompt in np.ndindex(shape):
        count = np.maximum(steps["tokens"][run, prompt], 0)
        made[run, prompt] = np.repeat(np.arange(len(count)), count)
        place = np.concatenate([np.arange(n) for n in count])
        draft[run, prompt] = place < np.repeat(np.maximum(steps["accepted"][run, prompt], 0), count)
    return xr.Dataset(
        {
            "id": variable("run prompt token", words, "token id", "token"),
            "step": variable("run prompt token", made, "step", "step that made the token"),
            "accepted_draft": variable("run prompt token", draft, "1", "whether the token came from a draft"),
        }
    )


OTHERS: dict[Any, dict[str, int]] = {
    compatibility: {"techniques": 100},
    training: {"steps": 9000},
    mapped: {"layers": 90, "others": 120},
    budgets: {"count": 6000},
    routed: {"budgets": 200, "places": 400},
    calibrated: {"places": 90},
    frontier: {"count": 6000, "prompts": 2},
    right: {"layers": 90},
}
"""What makes a trace that is neither of a run nor a study -> what makes it a large one."""

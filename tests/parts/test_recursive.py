"""The recursive language model: against a slow restatement, token by token, of what its head says."""

import pytest
import torch

from workbench.models.recursive import Layout, llama_config, unrolled
from workbench.parts.recursive import RecursiveLanguageModel

LAYOUT = Layout(block=2, times=3)
KINDS = [("fixed", "recursion"), ("expert", "recursion"), ("expert", "shared"), ("token", "recursion")]
kinds = pytest.mark.parametrize(("routing", "keys"), KINDS)


def part_of(routing, keys="recursion", layout=LAYOUT, seed=3):
    torch.manual_seed(seed)
    part = RecursiveLanguageModel(layout, 64, 16, 24, 2, routing, keys, 8).eval()
    with torch.no_grad():
        for parameter in part.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.4)
    return part


def texts(lengths=(9, 14)):
    tokens = torch.randint(3, 64, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(5))
    return tokens, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@torch.no_grad()
def slow(part, text):
    """Streams behind the final norm and recursions run by each token, one token at a time, with lists for caches."""
    llama, layout = part.llama, part.layout
    held = {}

    def layer(number, x, position, slot, source=None):
        module = llama.layers[number]
        attention, normed = module.self_attn, module.input_layernorm(x)
        angle = position * llama.rotary_emb.inv_freq.repeat(2)

        def turned(vector):
            half = vector.shape[-1] // 2
            crossed = torch.cat((-vector[..., half:], vector[..., :half]), -1)
            return vector * angle.cos() + crossed * angle.sin()

        size = attention.head_dim
        query = turned(attention.q_proj(normed).view(-1, size))
        if source is None:
            key, value = turned(attention.k_proj(normed).view(-1, size)), attention.v_proj(normed).view(-1, size)
            held.setdefault(slot, []).append((key, value))
        entries = held[slot if source is None else source]
        groups = len(query) // len(entries[0][0])
        out = []
        for head, row in enumerate(query):
            weights = torch.stack([row @ key[head // groups] for key, _ in entries]) * size**-0.5
            out.append(sum(w * value[head // groups] for w, (_, value) in zip(weights.softmax(0), entries)))
        x = x + attention.o_proj(torch.cat(out))
        return x + module.mlp(module.post_attention_layernorm(x))

    streams, depths = [], []
    for position, token in enumerate(text.tolist()):
        x = first = layer(0, llama.embed_tokens.weight[token], position, "first")
        if part.routing == "token":
            probability = part.router(x).softmax(-1)
            most = int(probability.argmax()) + 1
        ran = 0
        for recursion in range(layout.times):
            gate = 1.0
            if part.routing == "expert":
                gate = torch.sigmoid(part.router.weight[recursion] @ x)
                if recursion and gate <= 0.5:
                    break
            if part.routing == "token" and recursion >= most:
                break
            after = x
            for number in range(layout.block):
                shared = (0, number) if part.keys == "shared" and recursion else None
                after = layer(1 + number, after, position, (recursion, number), shared)
            x, ran = x + gate * (after - x), ran + 1
        if part.routing == "token":
            x = first + probability.max() * (x - first)
        streams.append(llama.norm(layer(layout.unique - 1, x, position, "last")))
        depths.append(ran)
    return torch.stack(streams), depths


@kinds
def test_the_batched_forward_is_the_formula_token_by_token(routing, keys):
    part, (tokens, real) = part_of(routing, keys), texts()
    with torch.no_grad():
        streams, routed = part(tokens, real)
    ran = sum(active.int() for active in routed.active)
    seen = set()
    for row, length in enumerate(real.sum(1).tolist()):
        expected, depths = slow(part, tokens[row, :length])
        torch.testing.assert_close(streams[row, :length], expected, rtol=1e-4, atol=1e-4)
        assert ran[row].tolist() == depths + [0] * (len(tokens[row]) - length)
        seen |= set(depths)
    assert len(seen) == (1 if routing == "fixed" else 3), "every depth is met, or the test shows little"


@pytest.mark.parametrize("keys", ["recursion", "shared"])
def test_capacity_takes_the_best_of_those_still_there(keys):
    part, (tokens, real) = part_of("expert", keys), texts((6, 12))
    _, routed = part(tokens, real, torch.tensor([1, 2 / 3, 1 / 3]))
    assert [active.sum(1).tolist() for active in routed.active] == [[6, 12], [4, 8], [2, 4]]
    for earlier, later in zip(routed.active, routed.active[1:]):
        assert not (later & ~earlier).any()
    loss, foretold = routed.foretelling()
    assert loss > 0 and 0 < foretold < 1
    assert routed.shares() == pytest.approx([1, 12 / 18, 6 / 18])


def test_the_fixed_one_is_the_llama_it_unrolls_to():
    from transformers import LlamaForCausalLM

    part, (tokens, real) = part_of("fixed"), texts((12, 12))
    hf = LlamaForCausalLM(llama_config(LAYOUT.layers, 64, 16, 24, 2)).eval()
    named = unrolled({key.removeprefix("llama."): v for key, v in part.llama.state_dict().items()}, LAYOUT)
    left = hf.load_state_dict(named, strict=False)
    assert left.missing_keys == ["lm_head.weight"] and not left.unexpected_keys
    with torch.no_grad():
        expected, (streams, _) = hf(tokens).logits, part(tokens, real)
        torch.testing.assert_close(part.logits(streams), expected, rtol=1e-4, atol=1e-4)


def test_costs_follow_what_ran():
    tokens, real = texts((12, 12))
    cost = {}
    for routing, keys in KINDS:
        part = part_of(routing, keys)
        with torch.no_grad():
            _, routed = part(tokens, real, torch.tensor([1, 2 / 3, 1 / 3]))
        cost[routing, keys] = part.flops(routed)
    maps = 2 * (16 * 16 * 2 + 2 * 16 * 8 + 3 * 16 * 24)
    mean = (12 + 1) / 2
    assert cost["fixed", "recursion"] == pytest.approx(2 * 64 * 16 + 8 * (maps + 4 * 16 * mean))
    assert cost["expert", "recursion"] < 0.85 * cost["fixed", "recursion"]
    assert cost["expert", "shared"] != cost["expert", "recursion"]


def test_a_layout_says_where_recursions_begin():
    assert (LAYOUT.layers, LAYOUT.unique, LAYOUT.behind) == (8, 4, 7)
    assert [LAYOUT.begins(each) for each in range(4)] == [1, 3, 5, 7]
    assert [LAYOUT.stored(layer) for layer in range(8)] == [0, 1, 2, 1, 2, 1, 2, 3]
    assert [LAYOUT.first_visit(layer) for layer in range(1, 7)] == [1, 2, 1, 2, 1, 2]

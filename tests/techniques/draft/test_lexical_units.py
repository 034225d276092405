"""Units of confident tokens: what is taken, what a forward is spent on, and what it costs in quality."""

import pytest
import torch
from helpers import run, tokens_of

from workbench import artifacts
from workbench.engine import generate
from workbench.errors import ArtifactError
from workbench.models.tiny import tiny
from workbench.parts.lookahead.padding import Padding
from workbench.tasks import load_prompts
from workbench.techniques import LexicalUnits

PROMPT = torch.randint(3, 96, (20,), generator=torch.Generator().manual_seed(4)).tolist()
TRAINED = (artifacts.folder() / "lexical_units.safetensors").is_file()


def padded(model, part, text, orders):
    """Logits of the padding positions after a text, by one plain forward of the transformers model over embeddings."""
    table = model.hf.get_input_embeddings().weight
    root = table[text[-1]]
    normed = root / (root.square().mean() + torch.finfo(root.dtype).eps).sqrt()
    inner = torch.nn.functional.silu(part.inner @ normed)
    extra = [part.embeddings[k] + part.outer[k] @ inner for k in range(orders)]
    embedded = torch.cat((table[torch.tensor(text)], torch.stack(extra)))
    with torch.no_grad():
        return model.hf(inputs_embeds=embedded[None]).logits[0, len(text) :]


def by_hand(model, part, prompt, new, alpha, length):
    """Units as the paper decodes them, everything computed anew for every unit."""
    text, forwards = list(prompt), 0
    unit, limit = [], len(prompt) + new
    with torch.no_grad():
        text.append(int(model.hf(torch.tensor([text])).logits[0, -1].argmax()))
        while len(text) < limit:
            # One forward: the unit enters, the token after it is said, and the padding looks beyond.
            room = limit - len(text) - 1
            unit = unit[:room]
            text += unit
            forwards += 1
            orders = min(length, room - len(unit))
            said = int(model.hf(torch.tensor([text])).logits[0, -1].argmax())
            distribution = padded(model, part, text, orders).softmax(-1) if orders else ()
            text.append(said)
            unit, before = [], said
            for row in distribution:
                chance, token = row.max(-1)
                if chance < alpha or int(token) == before:
                    break
                before = int(token)
                unit.append(before)
    return text[len(prompt) :], forwards


def some_padding(model, length, seed=3):
    torch.manual_seed(seed)
    part = Padding(0.4 * torch.randn(length, model.anatomy.width), 4)
    with torch.no_grad():
        part.outer.copy_(0.4 * torch.randn_like(part.outer))
    return part.requires_grad_(False)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_the_units_are_those_of_the_method_written_out(family, alpha, monkeypatch):
    model, length = tiny(family), 3
    part = some_padding(model, length)
    monkeypatch.setattr(LexicalUnits, "_part", lambda self, model: part)
    steps = run(model, PROMPT, [LexicalUnits(alpha=alpha, length=length)], 30)
    expected, forwards = by_hand(model, part, PROMPT, 30, alpha, length)
    assert tokens_of(steps) == expected
    assert len(steps) - 1 == forwards, "a unit takes one forward, and no token goes through twice"
    assert all(step.accepted == step.drafted for step in steps), "what reaches the threshold is taken as it is"
    if alpha < 0.3:
        assert any(step.accepted for step in steps), "no unit was longer than a token: this shows nothing"


def test_a_lower_threshold_takes_more(monkeypatch):
    model = tiny("llama")
    part = some_padding(model, 3)
    monkeypatch.setattr(LexicalUnits, "_part", lambda self, model: part)
    taken = [
        sum(step.accepted for step in run(model, PROMPT, [LexicalUnits(alpha=alpha)], 40)) for alpha in (0.02, 0.2, 1.0)
    ]
    assert taken[0] > taken[1] > taken[2] == 0


def test_the_text_is_not_the_models_own_where_units_are_taken_blindly(monkeypatch):
    """It is not exact, and says so."""
    model = tiny("llama")
    part = some_padding(model, 3)
    monkeypatch.setattr(LexicalUnits, "_part", lambda self, model: part)
    assert tokens_of(run(model, PROMPT, [LexicalUnits(alpha=0.05)], 40)) != tokens_of(run(model, PROMPT, (), 40))
    assert not LexicalUnits.exact


def test_a_token_that_was_ruled_out_is_not_taken_unverified(monkeypatch):
    model = tiny("llama")
    part = some_padding(model, 3)
    monkeypatch.setattr(LexicalUnits, "_part", lambda self, model: part)
    free = tokens_of(run(model, PROMPT, [LexicalUnits(alpha=0.02)], 30))
    least = len(free) - 1
    options = {"max_new_tokens": 30, "stop_tokens": tuple(set(free)), "min_new_tokens": least}
    found = tokens_of(generate(model, PROMPT, [LexicalUnits(alpha=0.02)], **options))
    assert not set(found[:least]) & set(free)


def test_a_unit_never_repeats_the_token_before(monkeypatch):
    model = tiny("llama")
    part = some_padding(model, 3)
    monkeypatch.setattr(LexicalUnits, "_part", lambda self, model: part)
    text = list(PROMPT)
    for step in run(model, PROMPT, [LexicalUnits(alpha=0.02)], 60):
        for place in range(step.accepted):
            assert step.tokens[place] != text[-1]
            text.append(step.tokens[place])
        text += step.tokens[step.accepted :]


def test_a_part_of_another_shape_is_refused(tmp_path):
    model = tiny("llama")
    facts = {"model": {"name": model.name, "revision": model.revision}}
    good = {name: value.clone() for name, value in some_padding(model, 3).state_dict().items()}
    wrong = {
        "has no tensor acceptance": {"embeddings": good["embeddings"]},
        "of width 16": Padding(torch.zeros(3, 16), 4).state_dict(),
    }
    for said, tensors in wrong.items():
        artifacts.save("lexical_units", {name: value.clone() for name, value in tensors.items()}, facts, tmp_path)
        with pytest.raises(ArtifactError, match=said):
            generate(model, PROMPT, [LexicalUnits(weights=str(tmp_path / "lexical_units.safetensors"))])
    with pytest.raises(ArtifactError, match="workbench train lexical_units"):
        generate(model, PROMPT, [LexicalUnits()])


@pytest.mark.slow
@pytest.mark.bundled
@pytest.mark.skipif(not TRAINED, reason="no padding has been trained for the bundled model yet")
def test_confident_units_save_forwards_and_cost_little(bundled):
    """Forwards are saved, and the text is one that the model itself finds less likely than its own, but not by much."""
    saved, loss = [], []
    for prompt in load_prompts("mixed", limit=8):
        start = bundled.encode(bundled.chat(prompt.prompt))
        plain = tokens_of(list(generate(bundled, start, max_new_tokens=48)))
        steps = list(generate(bundled, start, [LexicalUnits()], max_new_tokens=48))
        units = tokens_of(steps)
        saved.append(len(units) / len(steps))
        loss.append(surprise(bundled, start, units) - surprise(bundled, start, plain))
    assert sum(saved) / len(saved) > 1.1
    assert sum(loss) / len(loss) < 0.5, "nats for each token"


def surprise(model, start, said):
    """Mean negative log-likelihood of what was said [nats for each token]."""
    with torch.no_grad():
        rows = model.hf(torch.tensor([[*start, *said]])).logits[0, len(start) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(rows.float(), torch.tensor(said)))

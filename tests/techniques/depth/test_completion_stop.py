"""Who leaves, who goes on and what ends a completion, against the paper's rule; what it costs; what it is worth."""

import dataclasses

import pytest
import torch
from helpers import random_tokens, run, tokens_of
from techniques.trained_parts import needs_artefact

from workbench import artifacts
from workbench.engine import Decoder, generate, teacher_force
from workbench.errors import SettingError
from workbench.metrics import rouge_l_tokens
from workbench.models.tiny import tiny
from workbench.parts.exit_controller import EXIT, NAME, STOP, ExitController, load_controller
from workbench.parts.exits import load_lens
from workbench.tasks import held_out_functions
from workbench.techniques import CompletionStop, PromptLookup

PROMPT = random_tokens(20)
UNTRAINED = CompletionStop(exit_above=0.34, stop_above=1, weights="untrained", lens="untrained")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A controller drawn by chance that is surer of its classes than an untrained one."""
    place, model = tmp_path_factory.mktemp("drawn"), tiny("llama", layers=6)
    generator = torch.Generator().manual_seed(11)
    part = ExitController(5, 32)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    facts = {"model": {"name": model.name, "revision": model.revision}}
    artifacts.save(NAME, part.state_dict(), facts, place)
    return str(place / f"{NAME}.safetensors")


def said_by_hand(model, technique, prompt, new):
    """Tokens and layers of a run without a fill, one pass after the other, by the rule of the paper."""
    controller, lens = load_controller(model, technique.weights), load_lens(model, technique.lens)
    decoder, text, ran = Decoder(model, new), list(prompt), []
    text.append(int(decoder.prefill(prompt)[-1].argmax()))
    while len(text) < len(prompt) + new:
        ended = False
        with torch.inference_mode(), decoder.open(text[-1:]) as opened:
            for layer in range(model.layers):
                opened.run(until=layer + 1)
                stream = opened.x[0]
                if layer == model.layers - 1 or layer not in technique.checked(model.layers):
                    continue
                chances = controller.chances(layer, stream)[0].tolist()
                if chances[STOP] > technique.stop_above and chances[STOP] == max(chances):
                    ended = True
                elif chances[EXIT] > technique.exit_above and chances[EXIT] == max(chances):
                    stream = lens.stream(stream, layer)
                else:
                    continue
                opened.exit()
                break
            token = min(model.stop_tokens) if ended else int(model.anatomy.unembed(stream).argmax())
            opened.finish()
        text.append(token)
        ran.append(layer + 1)
        if ended:
            break
    return text[len(prompt) :], ran


@pytest.mark.parametrize(("exit_above", "stop_above"), [(0.4, 1.0), (0.5, 0.7), (1.0, 0.6), (0.0, 0.0)])
def test_a_run_is_what_the_rule_says(drawn, exit_above, stop_above):
    model = tiny("llama", layers=6)
    technique = CompletionStop(
        exit_above=exit_above, stop_above=stop_above, weights=drawn, lens="untrained", fill="hole", first=0.4
    )
    assert list(technique.checked(6)) == [1, 2, 3, 4]
    kinds = set()
    for seed in range(3):
        prompt = random_tokens(12, seed=seed)
        wanted, ran = said_by_hand(model, technique, prompt, 16)
        steps = run(model, prompt, [technique], new=16)
        assert tokens_of(steps) == wanted and [len(step.layers) for step in steps[1:]] == ran
        kinds |= {"left" if layers < 6 else "stayed" for layers in ran} | ({"ended"} if len(wanted) < 16 else set())
    assert "stayed" in kinds or exit_above == 0
    assert "ended" in kinds if stop_above < 1 else "left" in kinds


def test_a_completion_that_ends_says_a_stop_token_and_not_the_wrong_one(drawn):
    model = tiny("llama", layers=6)
    technique = CompletionStop(exit_above=1, stop_above=0.0, weights=drawn, lens="untrained")
    steps = run(model, PROMPT, [technique], new=16)
    assert len(tokens_of(steps)) < 16 and steps[-1].tokens == (min(model.stop_tokens),)
    assert len(steps[-1].layers) < 6, "what will be wrong is not computed to its end"
    head = 2 * model.anatomy.width * model.anatomy.vocabulary
    plain = run(model, PROMPT, new=len(steps))[-1]
    assert steps[-1].flops - steps[-1].policy_flops < plain.flops - head, "nor is the head asked for its token"


def test_a_model_without_stop_tokens_says_what_it_would_and_ends(drawn):
    model = dataclasses.replace(tiny("llama", layers=6))
    model.hf.generation_config.eos_token_id = model.hf.config.eos_token_id = None
    try:
        assert not model.stop_tokens
        technique = CompletionStop(exit_above=1, stop_above=0.0, weights=drawn, lens="untrained")
        found = tokens_of(run(model, PROMPT, [technique], new=16))
    finally:
        tiny.cache_clear()
    assert 1 < len(found) < 16


@pytest.mark.parametrize("fill", ["hole", "copy", "batch"])
def test_drafts_are_verified_as_tokens_that_come_alone(drawn, fill):
    """Also what ends a completion: a token of a draft that will be wrong, and those after it are not kept."""
    model, ended, proposed = tiny("llama", layers=6), 0, 0
    for seed in range(6):
        prompt = random_tokens(7, seed=seed) * 3
        technique = CompletionStop(exit_above=0.8, stop_above=0.9, weights=drawn, lens="untrained", fill=fill)
        alone, drafted = (run(model, prompt, [technique, *more], new=24) for more in ([], [PromptLookup(ngram=1)]))
        assert tokens_of(alone) == tokens_of(drafted)
        proposed += sum(step.drafted for step in drafted)
        ended += len(tokens_of(alone)) < 24
    assert 0 < ended < 6 and proposed > 0


def test_nothing_ends_where_nobody_asks(drawn):
    """Along a text that is given, and before there are so many tokens as are asked for."""
    model = tiny("llama", layers=6)
    technique = CompletionStop(exit_above=1, stop_above=0.0, weights=drawn, lens="untrained")
    early = tokens_of(run(model, PROMPT, [technique], new=16))
    assert len(early) < 8
    late = list(generate(model, PROMPT, [technique], max_new_tokens=16, min_new_tokens=8))
    plain = tokens_of(list(generate(model, PROMPT, max_new_tokens=16, min_new_tokens=8)))
    found = tokens_of(late)
    assert 8 <= len(found) < 16 and found[:8] == plain[:8]
    given = random_tokens(10, seed=3)
    rows = [torch.cat(list(teacher_force(model, PROMPT, given, each))) for each in ([technique], [])]
    torch.testing.assert_close(*rows)


def test_what_is_asked_is_counted_and_what_is_left_out_is_not():
    model = tiny("llama")
    width = model.anatomy.width
    stays = dataclasses.replace(UNTRAINED, exit_above=0.99)
    step, plain = run(model, PROMPT, [stays], new=3)[2], run(model, PROMPT, new=3)[2]
    assert step.policy_flops == 3 * 2 * 3 * width and step.flops - step.policy_flops == plain.flops
    leaves = dataclasses.replace(UNTRAINED, exit_above=0.0, fill="hole")
    found = next(step for step in run(model, PROMPT, [leaves], new=12)[1:] if len(step.layers) == 2)
    assert found.policy_flops == 2 * 2 * 3 * width + 2 * 2 * 4 * width
    block = model.anatomy.blocks[0]
    attention = 4 * sum(found.keys_read) * block.heads * block.head_dim
    head = 2 * width * model.anatomy.vocabulary
    assert found.flops - found.policy_flops == 2 * block.flops(1) + attention + head


def test_a_model_without_a_classifier_is_told_before_anything_runs():
    with pytest.raises(SettingError, match="workbench train completion_stop"):
        generate(tiny("llama"), PROMPT, [CompletionStop()])


@needs_artefact("completion_stop")
@needs_artefact("tuned_lens")
@pytest.mark.bundled(seconds=20)
def test_what_is_stopped_would_have_been_worse_than_what_is_not(bundled):
    """The paper's finding: of completions of ten tokens those that are stopped share less with the true code."""
    technique = CompletionStop(exit_above=1, stop_above=0.6, first=0.5, every=3)
    stopped, kept = [], []
    for prompt in held_out_functions(24):
        ids, reference = bundled.encode(prompt.prompt), bundled.encode(prompt.reference)[:10]
        whole, found = (tokens_of(run(bundled, ids, each, new=10)) for each in ([], [technique]))
        (kept if len(found) == 10 else stopped).append(rouge_l_tokens(whole, reference))
    assert len(stopped) > 3 and len(kept) > 3
    assert sum(stopped) / len(stopped) < sum(kept) / len(kept)

"""When a run ends and what it reports: against transformers' own, under drafts too."""

import pytest
import torch
from engine.scripted import Scripted
from helpers import random_tokens, tokens_of

from workbench.engine import Draft, Run, Sampler, generate
from workbench.engine.enumeration import distribution, total_variation
from workbench.engine.loop import Loop
from workbench.engine.options import Options
from workbench.engine.recipe import Recipe
from workbench.engine.sampling import entropies
from workbench.errors import NumericalError, PromptError, SettingError
from workbench.models import Model
from workbench.models.stop_text import StopText
from workbench.models.tiny import tiny
from workbench.techniques import EntropyAdaptive, PromptLookup, TokenRecycling

PROMPT = random_tokens(24) * 2
NEW = 24


class Letters:
    """A tokenizer whose token n is one of a few pieces of text; a piece may hold several letters, or a part of one."""

    chat_template = None
    pieces = ("a", "b", "ab", "c", "\n\n", " d", "bc", "e")

    def decode(self, tokens, **_):
        return "".join(self.pieces[token % len(self.pieces)] for token in tokens)


def lettered():
    plain = tiny("llama")
    return Model(plain.hf, Letters(), plain.anatomy, plain.name, plain.revision)


def truth():
    return tokens_of(generate(tiny("llama"), PROMPT, max_new_tokens=NEW, stop_tokens=()))


def cut(tokens, wanted):
    """The shortest beginning of a text that holds one of the texts."""
    for end in range(1, len(tokens) + 1):
        if any(text in Letters().decode(tokens[:end]) for text in wanted):
            return tokens[:end]
    return tokens


@pytest.mark.parametrize("wanted", [("ab",), ("bc", "xyz"), ("c",), ("\n\n",), (" d", "ea"), ("never",)])
@pytest.mark.parametrize("techniques", [[], [PromptLookup(ngram=1, draft=6)]], ids=["plain", "drafted"])
def test_a_stop_text_ends_the_output_with_the_token_that_completes_it(wanted, techniques):
    said = tokens_of(generate(lettered(), PROMPT, techniques, NEW, stop_tokens=(), stop_text=wanted))
    assert said == cut(truth(), wanted)


@pytest.mark.parametrize("text", ["abcab", "a b", "é", "aé", "🎉!"])
def test_a_stop_text_across_tokens_and_inside_one(text):
    """Every split of a text into bytes and every piece around it: the token that completes it is the one that ends."""
    data = f"xy{text}z".encode()

    def decode(tokens):
        return b"".join(tokens).decode(errors="replace")

    for size in (1, 2, 3, 5, len(data)):
        tokens = [data[start : start + size] for start in range(0, len(data), size)]
        policy, first = StopText(decode, [text], b"?"), None
        for end in range(1, len(tokens) + 1):
            if policy.stop(tokens[:end]):
                first = end
                break
        assert first == -(-len(f"xy{text}".encode()) // size), (text, size)


def test_a_text_that_was_there_before_does_not_end_it_again():
    policy = StopText(Letters().decode, ["ab"], 7)
    assert policy.stop([0, 1]) and policy.stop([3, 2])
    assert not policy.stop([2, 3]) and not policy.stop([0, 1, 3])


@pytest.mark.parametrize(("text", "message"), [("", "at least one character"), (["a", 5], "at least one character")])
def test_bad_stop_texts_are_refused(text, message):
    with pytest.raises(PromptError, match=message):
        generate(lettered(), PROMPT, stop_text=[text] if text == "" else text)
    with pytest.raises(PromptError, match="no tokenizer"):
        generate(tiny("llama"), PROMPT, stop_text="a")


@pytest.mark.parametrize("techniques", [[], [PromptLookup(ngram=1, draft=6)], [TokenRecycling()]], ids=str)
@pytest.mark.parametrize("least", [0, 1, 7, NEW])
def test_min_new_tokens_is_transformers_own(least, techniques):
    model, ids, stops = tiny("llama"), torch.tensor([PROMPT]), sorted(set(truth()[2:9]))
    expected = model.hf.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, min_new_tokens=least, do_sample=False,
        eos_token_id=stops, pad_token_id=0,
    )[0, len(PROMPT) :].tolist()  # fmt: skip
    said = tokens_of(generate(model, PROMPT, techniques, NEW, stop_tokens=stops, min_new_tokens=least))
    assert said == expected and len(said) >= least


def test_drafts_do_not_bend_what_is_drawn_while_no_stop_token_may_come():
    model, free, drafted = tiny("llama"), {0, 93, 94, 95}, []

    def text(techniques):
        def procedure(chance):
            run = Run(model, (5, 93, 94, 95, 7, 93, 94), 3, Sampler(1.0, chance=chance), 0)
            options = Options(tuple(set(range(96)) - free), min_new_tokens=3)
            steps = list(Loop(run, Recipe(techniques), options).steps(None))
            drafted.append(sum(step.drafted for step in steps))
            return tuple(tokens_of(steps))

        return distribution(procedure)

    expected = text([])
    assert len(expected) == 4**3 and set().union(*expected) == free
    assert total_variation(text([PromptLookup(ngram=1, draft=2)]), expected) < 1e-6
    assert sum(drafted) > 0


def test_nothing_else_ends_a_text_that_is_too_short():
    said = tokens_of(generate(lettered(), PROMPT, (), NEW, stop_tokens=(), stop_text=Letters.pieces, min_new_tokens=5))
    assert len(said) == 5


def test_a_switch_is_told_an_entropy_though_stop_tokens_have_no_probability():
    assert entropies(torch.tensor([[0.0, 0.0, float("-inf")]])) == pytest.approx([0.6931472])
    technique = EntropyAdaptive(small="/3", threshold=32.0, window=2, dwell=1)
    steps = list(generate(tiny("llama"), PROMPT, [technique], 6, stop_tokens=(3,), min_new_tokens=6))
    assert all(step.entropy >= 0 for step in steps)


@pytest.mark.parametrize("least", [-1, NEW + 1])
def test_min_new_tokens_out_of_range_is_refused(least):
    with pytest.raises(PromptError, match="min_new_tokens must lie in 0"):
        generate(tiny("llama"), PROMPT, max_new_tokens=NEW, min_new_tokens=least)


def rows_of(tokens):
    """transformers' logits that every token of an output was chosen from."""
    with torch.inference_mode():
        return tiny("llama").hf(torch.tensor([PROMPT + tokens])).logits[0, len(PROMPT) - 1 : -1]


@pytest.mark.parametrize("techniques", [[], [PromptLookup(ngram=1, draft=6)], [TokenRecycling()]], ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steps_report_what_each_token_was_chosen_from(techniques, temperature):
    options = {"max_new_tokens": NEW, "stop_tokens": (), "temperature": temperature, "seed": 2}
    steps = list(generate(tiny("llama"), PROMPT, techniques, logprobs=3, logits=True, **options))
    said = tokens_of(steps)
    assert said == tokens_of(generate(tiny("llama"), PROMPT, techniques, **options))
    expected = rows_of(said)
    logits = torch.cat([step.logits for step in steps])
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    reported = [each for step in steps for each in step.logprobs]
    assert len(reported) == len(said)
    for (ids, values), row, token in zip(reported, expected.log_softmax(-1), said, strict=True):
        assert list(ids[:3]) == row.topk(3).indices.tolist() and token in ids and len(ids) in (3, 4)
        torch.testing.assert_close(torch.tensor(values), row[list(ids)], rtol=1e-3, atol=1e-3)


def test_a_draft_that_ends_in_a_stop_token_reports_its_own_tokens_alone():
    said = truth()
    drafter = Scripted(lambda tokens, limit: Draft(said[len(tokens) - len(PROMPT) :][: min(8, limit)]))
    steps = list(generate(tiny("llama"), PROMPT, [drafter], NEW, stop_tokens=(said[4],), logprobs=1, logits=True))
    for step in steps:
        assert len(step.logprobs) == len(step.tokens) == len(step.logits)
        assert tuple(ids[0] for ids, _ in step.logprobs) == step.tokens


def test_nothing_is_reported_unless_asked():
    steps = list(generate(tiny("llama"), PROMPT, max_new_tokens=3, stop_tokens=()))
    assert all(step.logprobs is None and step.logits is None for step in steps)
    with pytest.raises(SettingError, match="logprobs"):
        generate(tiny("llama"), PROMPT, logprobs=-1)


@pytest.mark.parametrize(
    "output, wanted, length", [("日本", "本", 6), ("日本語", "語", 9), ("日本。b", "。b", 10), ("a日", "日", 4)]
)
def test_a_stop_text_is_seen_in_a_run_of_byte_tokens(output, wanted, length):
    """Such a run is decoded as a whole, or as nothing but replacement characters."""
    tokens = list(output.encode())

    def decode(ids):
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return "\N{REPLACEMENT CHARACTER}" * len(ids)

    policy = StopText(decode, [wanted], before=ord("x"))
    stopped = [count for count in range(1, len(tokens) + 1) if policy.stop(tokens[:count])]
    assert stopped[:1] == [length]


def test_stop_tokens_that_the_model_lacks_take_nothing_away():
    model = tiny("llama")
    expected = tokens_of(generate(model, random_tokens(12), max_new_tokens=6, stop_tokens=()))
    found = generate(model, random_tokens(12), max_new_tokens=6, stop_tokens=(96, -1), min_new_tokens=4)
    assert tokens_of(found) == expected


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_where_every_token_is_ruled_out_it_says_so(temperature):
    options = {"stop_tokens": tuple(range(96)), "min_new_tokens": 3, "max_new_tokens": 4, "temperature": temperature}
    with pytest.raises(NumericalError, match="no token may come next"):
        tokens_of(generate(tiny("llama"), random_tokens(12), **options))

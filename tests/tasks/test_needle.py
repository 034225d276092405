import pytest

from workbench.errors import PromptError
from workbench.tasks import (
    encode_parts,
    encode_prompt,
    format_prompt,
    load_prompts,
    needle,
    needle_found,
    write_prompts,
)
from workbench.tasks.needle import TEMPLATES, haystack


@pytest.mark.parametrize("length", [220, 500, 1001, 4096])
@pytest.mark.parametrize("depth", [0, 0.1, 0.5, 0.77, 1])
def test_length_is_exact_and_depth_is_met(chat_tokenizer, length, depth):
    prompt = needle(chat_tokenizer, length, depth, seed=3)
    assert len(encode_prompt(chat_tokenizer, prompt)) == length
    # The text is complete: what an engine tokenizes without special tokens is the same.
    assert format_prompt(chat_tokenizer, prompt) == prompt.prompt
    assert len(chat_tokenizer(prompt.prompt, add_special_tokens=False)["input_ids"]) == length
    before, after = prompt.metadata["tokens_before"], prompt.metadata["tokens_after"]
    # Within the tokens of two words, whatever the length.
    assert abs(before - depth * (before + after)) <= 12
    if depth == 0:
        assert before == 0
    if depth == 1:
        assert after == 0


@pytest.mark.parametrize("seed", range(8))
def test_length_is_exact_without_a_template_and_with_a_first_token(plain_tokenizer, seed):
    prompt = needle(plain_tokenizer, 301, 0.5, seed)
    ids = plain_tokenizer(prompt.prompt)["input_ids"]
    assert len(ids) == len(encode_prompt(plain_tokenizer, prompt)) == 301
    assert ids[0] == plain_tokenizer.bos_token_id


@pytest.mark.parametrize("template", range(len(TEMPLATES)))
def test_the_needle_stands_once_between_sentences_of_the_real_text(chat_tokenizer, template):
    prompt = needle(chat_tokenizer, 600, 0.4, seed=template, template=template)
    sentence = prompt.metadata["needle"]
    body = prompt.prompt.split("asked about it.\n\n")[1].split("\n\n")[0]
    assert body.count(sentence) == 1
    before, after = (part.strip() for part in body.split(sentence))
    assert before[-1] in ".?!"
    # Without the needle the text is a stretch of the haystack, word for word.
    assert f"{before} {after}" in " ".join(haystack())
    assert sentence.endswith(f"{prompt.reference}.")
    assert prompt.prompt.endswith(sentence.removesuffix(f" {prompt.reference}."))
    assert sentence.split(" is ")[0] in prompt.prompt.split("\n\n")[-1]


def test_the_answer_cannot_be_had_from_the_haystack(chat_tokenizer):
    text = " ".join(haystack()).lower()
    for template in TEMPLATES:
        for word in [*template.answers, *template.subjects]:
            assert word.lower() not in text
    prompt = needle(chat_tokenizer, 300, 0.5)
    assert prompt.prompt.count(prompt.reference) == 1


def test_the_seed_decides_the_needle_at_every_length_and_depth(chat_tokenizer):
    same = [needle(chat_tokenizer, length, depth, seed=5) for length in (250, 700) for depth in (0.2, 0.8)]
    assert len({prompt.metadata["needle"] for prompt in same}) == 1
    assert len({prompt.id for prompt in same}) == len({prompt.prompt for prompt in same}) == 4
    assert needle(chat_tokenizer, 250, 0.2, seed=5) == same[0]
    assert len({needle(chat_tokenizer, 250, 0.2, seed=seed).metadata["needle"] for seed in range(10)}) >= 8


def test_found():
    class Words:
        chat_template = None

        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": text.split()}

    prompt = needle(Words(), 200, 0.5, seed=1, template=0)
    assert needle_found(f" {prompt.reference}. This is the number", prompt) is True
    assert needle_found(f"{prompt.reference}0", prompt) is False
    assert needle_found("I do not know.", prompt) is False
    assert needle_found("", prompt) is False


def test_needles_survive_a_file(chat_tokenizer, tmp_path):
    prompts = [needle(chat_tokenizer, 300, 0.5, seed) for seed in (1, 2)]
    write_prompts(prompts, tmp_path / "needles.jsonl")
    again = load_prompts(tmp_path / "needles.jsonl")
    assert again == prompts
    assert len(encode_prompt(chat_tokenizer, again[0])) == 300


def test_the_haystack_is_long(plain_tokenizer):
    assert len(haystack()) > 900
    assert len(" ".join(haystack()).split()) > 20_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((500, -0.1), "depth must be between 0 and 1"),
        ((500, 1.1), "depth must be between 0 and 1"),
        ((500, float("nan")), "depth must be between 0 and 1"),
        ((20, 0.5), "needs at least"),
        ((0, 0.5), "needs at least"),
        ((1_000_000, 0.5), "long enough for about"),
    ],
)
def test_what_cannot_be_made_is_said(chat_tokenizer, arguments, message):
    with pytest.raises(PromptError, match=message):
        needle(chat_tokenizer, *arguments)


def test_the_lengths_that_errors_name_can_be_made(chat_tokenizer):
    with pytest.raises(PromptError) as caught:
        needle(chat_tokenizer, 20, 0.5)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert len(encode_prompt(chat_tokenizer, needle(chat_tokenizer, least + 3, 0.5))) == least + 3


def test_a_template_that_is_none(chat_tokenizer):
    with pytest.raises(PromptError, match="template must be 0 to"):
        needle(chat_tokenizer, 500, 0.5, template=len(TEMPLATES))


@pytest.mark.bundled
@pytest.mark.parametrize(
    ("length", "depth", "seed"), [(500, 0.5, 0), pytest.param(2000, 0.5, 5, marks=pytest.mark.slow)]
)
def test_the_bundled_model_finds_the_needle(bundled, length, depth, seed):
    import torch

    prompt = needle(bundled.tokenizer, length, depth, seed, template=0)
    assert bundled.encode(prompt.prompt) == encode_prompt(bundled.tokenizer, prompt)
    ids = torch.tensor([encode_prompt(bundled.tokenizer, prompt)])
    assert ids.shape == (1, length)
    output = bundled.hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert needle_found(bundled.tokenizer.decode(output[0, length:]), prompt)


# Compressed before the question


def _log_likelihood(model, prompt, techniques, first):
    """Of the answer, in all and of its first token [nats]; the haystack compressed before the question, or after it."""
    import torch

    import workbench

    ids, context = encode_parts(model.tokenizer, prompt)
    answer = model.tokenizer(f" {prompt.reference}", add_special_tokens=False)["input_ids"]
    rows = workbench.teacher_force(model, ids, answer, techniques, context_tokens=context if first else None)
    chances = torch.cat([row.clone() for row in rows]).log_softmax(-1).gather(1, torch.tensor(answer)[:, None])
    return float(chances.sum()), float(chances[0])


@pytest.mark.bundled
def test_an_eviction_that_does_not_know_the_question_loses_what_it_kept_when_it_did(bundled):
    """SnapKV keeps the needle while the question is in its window; asked afterwards, it has lost it. So has chance, and
    a window of the newest tokens has it because it stands there."""
    from workbench.techniques import RandomEviction, SnapKV, StreamingLLM

    prompt = needle(bundled.tokenizer, 350, 0.7, 13, template=0)
    baseline = _log_likelihood(bundled, prompt, [], first=True)
    seen = _log_likelihood(bundled, prompt, [SnapKV(keep=0.5)], first=False)
    techniques = {"snap": SnapKV(keep=0.5), "random": RandomEviction(keep=0.5), "stream": StreamingLLM(window=128)}
    first = {name: _log_likelihood(bundled, prompt, [each], first=True) for name, each in techniques.items()}
    print(f"log-likelihood of the answer: baseline {baseline}, SnapKV with the question seen {seen}, without {first}")
    assert baseline[0] > -1 and seen[0] > -1.5
    assert first["snap"][0] < -8 and first["random"][0] < -8 and first["stream"][0] > -1.5
    # Full attention gives the first token where the question was seen, so that nothing shows in it.
    assert seen[1] == pytest.approx(baseline[1], abs=1e-3)
    assert all(abs(each[1] - baseline[1]) > 0.02 for each in first.values())


@pytest.mark.slow
@pytest.mark.bundled
def test_needles_found_with_the_question_seen_and_before(bundled):
    from workbench import generate
    from workbench.techniques import SnapKV, StreamingLLM

    prompts = [
        needle(bundled.tokenizer, 350, depth, seed, template=0) for depth, seed in ((0.3, 11), (0.7, 13), (0.1, 5))
    ]
    hits = {}
    for name, techniques in {"all": [], "snap": [SnapKV(keep=0.5)], "stream": [StreamingLLM(window=128)]}.items():
        for first in (False, True):
            said = []
            for prompt in prompts:
                ids, context = encode_parts(bundled.tokenizer, prompt)
                steps = generate(bundled, ids, techniques, 7, context_tokens=context if first else None)
                said.append(needle_found(bundled.decode([token for step in steps for token in step.tokens]), prompt))
            hits[name, first] = said
    print(hits)
    assert hits["all", False] == hits["all", True] == hits["snap", False] == [True] * 3
    assert hits["snap", True] == [False] * 3
    # What stands in the window is found either way.
    assert hits["stream", False] == hits["stream", True] == [False, True, False]

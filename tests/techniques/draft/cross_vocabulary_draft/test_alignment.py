"""Two tokenizers over one growing text: as if encoded whole, and what is drafted in one comes out in the other."""

import itertools

import pytest
from tokenizers.processors import TemplateProcessing
from tokenizers_in_memory import CORPUS, of_bytes, of_words

from workbench.techniques.draft.cross_vocabulary_draft.alignment import Alignment, decode

TEXT = " ".join(CORPUS[:3]) + " The naïve river rereads the valley; the sea reads the café."
BYTES, FINE, WORDS = of_bytes(400), of_bytes(270), of_words(120)
PAIRS = {
    "bytes-fine": (BYTES, FINE),
    "fine-bytes": (FINE, BYTES),
    "bytes-words": (BYTES, WORDS),
    "words-bytes": (WORDS, BYTES),
}
pairs = pytest.mark.parametrize(("main", "drafter"), PAIRS.values(), ids=PAIRS)


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pairs
def test_a_growing_text_is_encoded_as_if_it_were_whole(main, drafter):
    tokens = encode(main, TEXT)
    alignment = Alignment(main, drafter, tail=4)
    for count in range(3, len(tokens) + 1):
        text = decode(main, tokens[:count])
        found = alignment.to_drafter(tokens[:count])
        if text.endswith("\ufffd"):
            assert found is None
            continue
        assert found == encode(drafter, text)
        # Little is looked at again.
        assert count - alignment.settled <= 30
    assert alignment.settled > 0.5 * len(tokens)


@pairs
def test_a_continuation_by_the_drafter_is_the_model_s_own_tokens(main, drafter):
    """Wherever the text is cut at a word, drafting the rest of it gives just the tokens that the model would say."""
    tokens = encode(main, TEXT)
    seen = 0
    for count in range(3, len(tokens) - 3):
        text = decode(main, tokens[:count])
        rest = TEXT[len(text) :]
        if not rest.startswith(" "):
            continue
        alignment = Alignment(main, drafter, tail=4)
        there = alignment.to_drafter(tokens[:count])
        whole = encode(drafter, TEXT)
        assert whole[: len(there)] == there
        drafted = whole[len(there) : len(there) + 8]
        found = alignment.to_main(drafted)
        ended = decode(drafter, drafted, there[-1:])
        assert [token for token, _ in found] == encode(main, text + ended)[count:]
        assert decode(main, [token for token, _ in found], tokens[count - 1 : count]) == ended
        for (token, needed), (_, later) in itertools.pairwise([*found, (None, len(drafted))]):
            assert token is not None and 1 <= needed <= later <= len(drafted)
        seen += 1
    assert seen > 20


@pairs
def test_within_a_word_the_continuation_stands_alone(main, drafter):
    before = [*encode(main, "The riv")]
    alignment = Alignment(main, drafter)
    assert alignment.to_drafter(before) == encode(drafter, "The riv")
    found = [token for token, _ in alignment.to_main(encode(drafter, "ers run"))]
    assert decode(main, [*before, *found]) == "The rivers run"


def test_how_many_drafted_tokens_each_needs():
    """A long token of the model needs as many of the drafter's short ones as end within it."""
    alignment = Alignment(BYTES, FINE)
    alignment.to_drafter(encode(BYTES, "The"))
    drafted = encode(FINE, " river runs")
    lengths = [len(decode(FINE, drafted[: end + 1])) for end in range(len(drafted))]
    end = 0
    for token, needed in alignment.to_main(drafted):
        end += len(decode(BYTES, [token]))
        assert lengths[needed - 1] >= end and (needed == 1 or lengths[needed - 2] < end)
    assert end == len(" river runs")


def test_a_text_that_ends_within_a_character_is_not_drafted_for():
    tokens = encode(FINE, "caf")
    (first, *_) = encode(FINE, "é")[:1]
    alignment = Alignment(FINE, WORDS)
    assert alignment.to_drafter([*tokens, first]) is None or decode(FINE, [first]) == "é"
    assert any(decode(FINE, [token]) == "\ufffd" for token in encode(FINE, "—")), "no token here is part of a character"
    assert alignment.to_drafter([*tokens, encode(FINE, "—")[0]]) is None


def test_a_beginning_token_stands_first_and_special_tokens_have_no_text():
    begins = of_words(120)
    begins.add_bos_token = True
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single="<begin> $A", special_tokens=[("<begin>", begins.bos_token_id)]
    )
    alignment = Alignment(BYTES, begins)
    tokens = [BYTES.eos_token_id, *encode(BYTES, "The river")]
    assert alignment.to_drafter(tokens) == [begins.bos_token_id, *encode(WORDS, "The river")]

"""Byte-fallback tokenizers: what the drafter reads is the text, byte for byte, at every place of it."""

import re

import pytest
from tokenizers_in_memory import of_bytes, of_words, of_words_and_bytes

from workbench.techniques.draft.cross_vocabulary_draft.alignment import Alignment, byte_values, decode

TEXT = "The river 你好世界 🦙🦙 naïve reader — 世界river🦙 runs; ça, the café 你 reads 界\n\n🦙 and the valley meets."
COARSE, FINE, BYTES, WORDS = of_words_and_bytes(120), of_words_and_bytes(60), of_bytes(320, every=True), of_words(120)
PAIRS = {
    "fallback-bytes": (COARSE, BYTES),
    "bytes-fallback": (BYTES, COARSE),
    "coarse-fine": (COARSE, FINE),
    "fine-coarse": (FINE, COARSE),
}
pairs = pytest.mark.parametrize(("main", "drafter"), PAIRS.values(), ids=PAIRS)


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def content(tokenizer, tokens):
    """The bytes of tokens, by their names in the vocabulary alone."""
    if tokenizer is BYTES:
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = (byte for byte in range(256) if byte not in printable)
        value = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}
        return bytes(value[character] for piece in tokenizer.convert_ids_to_tokens(tokens) for character in piece)
    found = b""
    for piece in tokenizer.convert_ids_to_tokens(tokens):
        byte = re.fullmatch("<0x(..)>", piece)
        found += bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
    return found


def test_the_tokenizers_are_what_the_tests_need():
    for tokenizer in (COARSE, FINE, BYTES):
        assert content(tokenizer, encode(tokenizer, TEXT)).decode() == tokenizer.decode(encode(tokenizer, TEXT)) == TEXT
    assert len(byte_values(COARSE)) == len(byte_values(FINE)) == 256 and not byte_values(BYTES)
    assert sum(token in byte_values(COARSE) for token in encode(COARSE, TEXT)) > 40


@pairs
@pytest.mark.parametrize("growing", [True, False])
def test_what_the_drafter_reads_is_the_text_at_every_place(main, drafter, growing):
    tokens, seen = encode(main, TEXT), 0
    alignment = Alignment(main, drafter, tail=4)
    for count in range(1, len(tokens) + 1):
        alignment = alignment if growing else Alignment(main, drafter, tail=4)
        found, real = alignment.to_drafter(tokens[:count]), content(main, tokens[:count])
        try:
            text = real.decode()
        except UnicodeDecodeError:
            assert found is None
            continue
        assert content(drafter, found) == real and decode(drafter, found) == text
        assert found == encode(drafter, text)
        seen += 1
    assert seen > 40


@pairs
def test_what_is_drafted_is_what_the_drafter_said(main, drafter):
    """From every place the drafter goes on with the real text; the model's tokens for it are a beginning of that."""
    tokens, whole, seen = encode(main, TEXT), encode(drafter, TEXT), 0
    for count in range(1, len(tokens)):
        alignment = Alignment(main, drafter)
        there = alignment.to_drafter(tokens[:count])
        if there is None or whole[: len(there)] != there:
            continue
        real = content(main, tokens[:count])
        for length in (1, 3, 6, 12):
            drafted = whole[len(there) : len(there) + length]
            found = alignment.to_main(drafted)
            made, said = content(main, [token for token, _ in found]), content(drafter, drafted)
            assert said.startswith(made) and (real + made).decode() == TEXT[: len((real + made).decode())]
            # Nothing but the bytes of a character that is not whole is lost.
            assert len(said) - len(made) < 4
            for end, (_, needed) in enumerate(found):
                upto = content(main, [token for token, _ in found[: end + 1]]).decode("utf-8", "ignore").encode()
                assert len(content(drafter, drafted[:needed])) >= len(upto)
            seen += bool(found)
    assert seen > 80


def test_bytes_out_of_place_spoil_themselves_alone():
    vocabulary = COARSE.get_vocab()
    good = [vocabulary[f"<0x{byte:02X}>"] for byte in "你".encode()]
    stray = vocabulary["<0xA0>"]
    tokens = [*encode(COARSE, "river"), *good, stray, *good, *encode(COARSE, " runs")]
    assert decode(COARSE, tokens) == "river你\ufffd你 runs"
    alignment = Alignment(COARSE, BYTES)
    assert alignment.to_drafter(tokens) == encode(BYTES, "river你\ufffd你 runs")
    assert alignment.to_drafter([*tokens, good[0]]) is None


def test_a_tokenizer_without_bytes_is_decoded_as_it_was():
    tokens = encode(WORDS, "The river runs")
    assert (
        not byte_values(WORDS)
        and decode(WORDS, tokens[1:], tokens[:1]) == "The river runs"[len(decode(WORDS, tokens[:1])) :]
    )

"""Every text comes out of its tokens whole, at every moment of the stream, with every kind of tokenizer."""

import random
import re
from pathlib import Path

import pytest
from tokenizers_of_kinds import EXACT, KINDS, TEXTS, byte_fallback, byte_level, decoder, unigram, word_pieces

from workbench.models.detokenise import Detokeniser, label, pieces
from workbench.models.tiny import tiny

BROKEN = "\N{REPLACEMENT CHARACTER}"


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_stream_is_the_beginning_of_the_text_at_every_moment(kind, text):
    tokenizer = KINDS[kind]()
    decode, ids = decoder(tokenizer), ids_of(tokenizer, text)
    whole, stream, shown = decode(ids), Detokeniser(decode), ""
    for token in ids:
        shown += stream.add(token)
        assert whole.startswith(shown) and BROKEN not in shown
    assert stream.flush() == "" and shown == whole
    if kind in EXACT:
        assert shown == text


@pytest.mark.parametrize("kind", [name for name in KINDS if "fallback" not in name])
def test_any_tokens_at_all_join_to_what_decode_gives(kind):
    tokenizer = KINDS[kind]()
    decode = decoder(tokenizer)
    for seed in range(200):
        drawn = random.Random(seed)
        ids = [drawn.randrange(len(tokenizer) + 3) for _ in range(drawn.randrange(90))]
        assert "".join(pieces(decode, ids)) == decode(ids), seed


@pytest.mark.parametrize("strip", [True, False])
def test_a_broken_run_of_bytes_keeps_the_characters_that_were_whole(strip):
    tokenizer = byte_fallback(strip)
    decode, ids = decoder(tokenizer), ids_of(tokenizer, "家好")[-6:]
    assert decode(ids[:4]) == 4 * BROKEN, "this tokenizer decodes a run of bytes as a whole or not at all"
    assert pieces(decode, ids) == ["", "", "家", "", "", "好"]
    assert pieces(decode, open_end := ids[:4]) == ["", "", "家", BROKEN]
    [word] = [token for token in range(len(tokenizer)) if tokenizer.convert_ids_to_tokens(token) == "▁two"]
    assert pieces(decode, [*open_end, word]) == ["", "", "家", "", f"{BROKEN} two"]


def test_a_character_stands_at_the_token_that_completes_it_and_nowhere_else():
    tokenizer = byte_level()
    decode = decoder(tokenizer)
    parts = [tokenizer.convert_tokens_to_ids(name) for name in "ðŁ¦Ļ"]  # the four bytes of a llama
    assert pieces(decode, [*parts, *parts]) == ["", "", "", "🦙"] * 2
    assert pieces(decode, parts[:3]) == ["", "", BROKEN]
    stream = Detokeniser(decode)
    assert [stream.add(token) for token in [*parts[:2], *ids_of(tokenizer, "x")]] == ["", "", f"{BROKEN}x"]


def test_a_real_replacement_character_is_not_lost():
    tokenizer = byte_level()
    for text in (f"a{BROKEN}", f"{BROKEN}{BROKEN}b", BROKEN):
        assert "".join(pieces(decoder(tokenizer), ids_of(tokenizer, text))) == text


@pytest.mark.parametrize(
    ("broken", "letters"), [(b"\x80", "Ģ"), (b"\xe4\xbd", "ä½"), (b"\xf0\x9f\xa6", "ðŁ¦"), (b"\xc3\n", "ÃĊ")]
)
@pytest.mark.parametrize("kind", EXACT)
def test_the_cost_is_linear_also_in_garbage(kind, broken, letters):
    tokenizer = KINDS[kind]()
    names = letters if kind == "byte level" else [f"<0x{byte:02X}>" for byte in broken]
    ids = [tokenizer.get_vocab()[name] for name in names] * 300
    decoded = []

    def counted(tokens):
        decoded.append(len(tokens))
        return decoder(tokenizer)(tokens)

    assert "".join(pieces(counted, ids)) == decoder(tokenizer)(ids) or "fallback" in kind
    assert sum(decoded) < 100 * len(ids)


@pytest.mark.parametrize("kind", EXACT)
def test_any_text_at_all_comes_out_whole(kind):
    tokenizer = KINDS[kind]()
    decode = decoder(tokenizer)
    for seed in range(60):
        drawn = random.Random(seed)
        low, high = drawn.choice([(0x20, 0x7F), (0x80, 0x800), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0x20, 0xD000)])
        text = "".join(drawn.choice(" \n" + chr(drawn.randrange(low, high)) * 3) for _ in range(40))
        stream, shown = Detokeniser(decode), ""
        for token in ids_of(tokenizer, text):
            shown += stream.add(token)
            assert text.startswith(shown)
        assert shown == text and not stream.flush()


@pytest.mark.parametrize("broken", [False, True])
def test_tokens_that_each_end_one_character_and_begin_the_next(broken):
    good = "好".encode()
    names = [good[:1], good[1:] + good[:1], b"\xbd\xe5", good[1:]]  # the third is never a character
    ids = [0, *[2 if broken and place % 3 == 0 else 1 for place in range(300)], 3]
    decoded = []

    def decode(tokens):
        decoded.append(len(tokens))
        return b"".join(names[token] for token in tokens).decode("utf-8", "replace")

    found = pieces(decode, ids)
    assert "".join(found) == decode(ids)
    assert broken or found == ["", *["好"] * 301]
    assert sum(decoded) - len(ids) < 100 * len(ids)


def test_a_label_keeps_its_space_and_spells_bytes():
    spaced, bytes_in_letters = byte_fallback(True), byte_level()

    def labels(tokenizer, *names):
        return [label(tokenizer, tokenizer.convert_tokens_to_ids(name), decoder(tokenizer)) for name in names]

    assert labels(spaced, "▁two", "llo", "▁", "▁▁", "<0xE4>", "<0x0A>", "<s>")[:6] == [
        " two", "llo", " ", "  ", "<0xE4>", "\n"
    ]  # fmt: skip
    assert labels(bytes_in_letters, "Ġ", "Ċ", "ð", "<s>") == [" ", "\n", "<0xF0>", "<s>"]
    assert labels(unigram(), "▁two", "a") == [" two", "a"]
    assert labels(word_pieces(), "two", "##ing") == [" two", "ing"]
    assert label(spaced, len(spaced) + 9, decoder(spaced)) == "", "an id beyond the tokenizer's own has no text"


def test_spaces_are_never_tidied_away():
    model = tiny("llama").__class__(None, word_pieces(), None, "words")
    ids = ids_of(model.tokenizer, "it ' s two , and")
    assert model.decode(ids) == "it ' s two , and" == "".join(model.pieces(ids))


def test_a_model_without_a_tokenizer_writes_ids():
    model = tiny("llama")
    assert model.pieces([3, 4]) == ["<3>", "<4>"] and model.label(3) == "<3>"


def test_nobody_decodes_tokens_one_by_one():
    root = Path(__file__).resolve().parents[2]
    files = [file for place in ("workbench", "app", "notebooks") for file in (root / place).rglob("*.py")]
    alone = re.compile(r"decode\(\[?(token|number|each|i)\]?[,)]")
    found = {file.name for file in files if alone.search(file.read_text("utf-8"))}
    # What a token stands for by itself, and whether it is a whole character.
    assert len(files) > 100 and found == {"detokenise.py", "model.py", "stop_text.py"}

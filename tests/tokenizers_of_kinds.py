"""Tiny tokenizers of every kind that real models have, made in memory, and the texts that they are tried on."""

from __future__ import annotations

import functools
import json
from pathlib import Path

TEXTS = json.loads((Path(__file__).parent / "data" / "texts.json").read_text("utf-8"))
START = "<s>"
TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"


def _wrapped(tokenizer, template=None, **options):
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START, eos_token="</s>", **options)
    made.chat_template = template
    return made


def _words():
    """Pieces of words as a SentencePiece vocabulary has them."""
    return ["▁", "▁▁", *"abcdefghijklmnopqrstuvwxyzHNP.,:=()'é", "▁two", "▁three", "▁and", "▁He", "llo", "▁wor", "ld"]


def _start_first(tokenizer):
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    return tokenizer


@functools.cache
def byte_level(template=None):
    """Like GPT-2's, Llama 3's, Qwen's: bytes in an alphabet, merges across characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=[START, "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS.values(), trainer)
    return _wrapped(_start_first(tokenizer), template)


@functools.cache
def byte_fallback(strip, template=None):
    """Like Llama 2's (with ``strip``: the decoder drops a leading space) and Gemma's (without): bytes as ``<0xE4>``."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    names = ["<unk>", START, "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_words()]
    vocabulary = {name: place for place, name in enumerate(names)}
    merges = [("▁", "▁")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    first = [normalizers.Prepend("▁")] if strip else []
    tokenizer.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, *([decoders.Strip(" ", 1, 0)] if strip else [])])
    tokenizer.add_special_tokens(["<unk>", START, "</s>"])
    return _wrapped(_start_first(tokenizer), template)


@functools.cache
def unigram():
    """Like T5's: whole pieces with a Metaspace that is dropped at the start."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(set("".join(TEXTS.values())) - {" "})
    names = dict.fromkeys(["<unk>", START, "</s>", *_words(), *letters])
    tokenizer = Tokenizer(models.Unigram([(name, -1.0 - len(name) / 100) for name in names], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _wrapped(tokenizer)


@functools.cache
def word_pieces():
    """Like BERT's: ``##`` goes on with a word, and words are set apart again; asks for spaces to be tidied."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    names = ["[UNK]", START, "</s>", "two", "do", "n't", "it", "'", "s", ",", "##ing", "##s", ".", "and", "##é"]
    tokenizer = Tokenizer(models.WordPiece({name: place for place, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return _wrapped(tokenizer, clean_up_tokenization_spaces=True)


KINDS = {
    "byte level": byte_level,
    "byte fallback, space stripped": functools.partial(byte_fallback, True),
    "byte fallback": functools.partial(byte_fallback, False),
    "unigram": unigram,
    "word pieces": word_pieces,
}
EXACT = [name for name in KINDS if name not in ("unigram", "word pieces")]  # kinds that can write any text


def decoder(tokenizer):
    """Decode as :meth:`workbench.models.Model.decode` does."""
    return lambda tokens: tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)

"""Small tokenizers trained on the spot: one of bytes, one of words with spaces folded into them."""

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "The river runs through the valley and the rivers meet at the sea.",
    "A naïve reader reads the café's menu, and rereads it — twice.",
    "Nothing in the valley ran further than the river, nothing at all.",
] * 4


def of_bytes(size, every=False):
    """Byte-level pairs, of all bytes or of the corpus's alone; a space belongs to the word after it, and a token may
    end within a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if every else []
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def of_words_and_bytes(size):
    """As :func:`of_words`, and a character that is no token is its bytes, as Gemma's and Llama's are."""
    made = json.loads(of_words(size).backend_tokenizer.to_str())
    vocabulary = made["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    made["added_tokens"] = [each for each in made["added_tokens"] if each["content"] in ("<unk>", "<begin>")]
    made["model"]["byte_fallback"] = True
    made["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    made["pre_tokenizer"] = None
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    made["decoder"] = {"type": "Sequence", "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]}
    tokenizer = Tokenizer.from_str(json.dumps(made))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<begin>")


def of_words(size):
    """Pairs of characters with ▁ for a space, a beginning token, and a decoder that drops the first space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<unk>", "<begin>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<begin>")

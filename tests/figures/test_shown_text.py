"""Texts whose characters are spread over tokens stand in reports and figures as they are, whatever the tokenizer."""

import dataclasses
import html
import json
import re

import numpy as np
import pytest
from tokenizers_of_kinds import EXACT, KINDS, TEXTS, byte_fallback, byte_level

from workbench import figures, observe, trace
from workbench.figures._text import NOTHING, visible
from workbench.models.tiny import tiny
from workbench.probes import LogitLens
from workbench.studies.run import run

BROKEN = "\N{REPLACEMENT CHARACTER}"
LLAMA = "ðŁ¦Ļ"  # its four bytes, as byte-level tokenizers name them


def model_with(tokenizer):
    return dataclasses.replace(tiny("llama", vocabulary=len(tokenizer)), tokenizer=tokenizer)


def shown(page):
    """The texts that a report shows, without its marks for what has no shape."""
    found = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    plain = [html.unescape(re.sub("<[^>]*>", "", text)) for text in found]
    return [text.replace("⏎\n", "\n").replace("⇥", "\t") for text in plain]


def generated(model, tokens):
    """A run whose answer is these tokens."""
    done = run(model, [1, 5, 7], max_new_tokens=len(tokens), stop_tokens=())
    steps = [dataclasses.replace(step, tokens=(token,)) for step, token in zip(done.steps, tokens, strict=True)]
    return dataclasses.replace(done, steps=steps).trace


@pytest.mark.parametrize("kind", EXACT)
def test_reports_show_prompts_and_answers_as_they_are(kind, tmp_path):
    model = model_with(KINDS[kind]())
    for text in TEXTS.values():
        ids = model.encode(text, start=False)
        seen = trace.build({"tokens": trace.tokens(ids)}, model=model, kind="observe", recipe=[], used=ids)
        page = figures.report(seen, tmp_path / "seen.html").read_text("utf-8")
        assert shown(page) == [text] and BROKEN not in page
        page = figures.report(generated(model, ids), tmp_path / "said.html").read_text("utf-8")
        assert text in shown(page) and BROKEN not in page


def test_every_letter_of_a_strip_is_the_text():
    model = model_with(byte_level())
    table = figures.compute_strip(generated(model, model.encode(TEXTS["emoji"], start=False))).to_dict()
    [rows] = table["datasets"].values()
    assert "".join(row["token"] for row in rows if row["token"] != NOTHING) == visible(TEXTS["emoji"])


def test_a_character_stands_once_and_its_bytes_at_the_tokens_that_begin_it():
    model = model_with(byte_level())
    parts = [model.tokenizer.convert_tokens_to_ids(name) for name in LLAMA]
    [rows] = figures.compute_strip(generated(model, parts)).to_dict()["datasets"].values()
    assert [row["token"] for row in rows] == [NOTHING, NOTHING, NOTHING, "🦙"]
    assert [row["said"] for row in rows] == ["<0xF0>", "<0x9F>", "<0xA6>", "🦙"]
    spaced = model.tokenizer.convert_tokens_to_ids("Ġâ")  # a space, and the first byte of what follows
    [rows] = figures.compute_strip(generated(model, [spaced, *parts])).to_dict()["datasets"].values()
    assert [row["token"] for row in rows][:2] == ["␣", NOTHING] and rows[0]["said"] == "␣<0xE2>"
    seen = observe(model, parts, [LogitLens()])
    [rows] = figures.logit_lens(seen, last=2).to_dict()["datasets"].values()
    assert list(dict.fromkeys(row["token"] for row in rows)) == ["2 <0xA6>", "3 🦙"]


def test_lens_labels_keep_the_space_that_a_tokenizer_drops_at_the_start():
    model = model_with(byte_fallback(True))
    ids = model.encode("two three", start=False)
    seen = observe(model, ids, [LogitLens()])
    [rows] = figures.logit_lens(seen).to_dict()["datasets"].values()
    names = list(dict.fromkeys(row["token"] for row in rows))
    assert names[0] == "0 ␣" and "".join(name.split(" ", 1)[1] for name in names) == "␣two␣three"
    top = seen["probes/logit_lens/top_token"].values[-1, 0, 0]
    assert rows[-len(ids)]["top"] == visible(model.label(int(top)))


def test_the_pieces_of_a_study_stay_with_their_tokens(tmp_path):
    import workbench as wb

    model = model_with(byte_level())
    study = wb.compare(model, ["two", "家 two"], {"baseline": []}, 12, 1, stop_tokens=(), quality=False)
    for tree in (study.tree, trace.open(trace.save(study.tree, tmp_path / "study.zarr"))):
        read, text = trace.words(tree), tree["text"].to_dataset()
        for place in (1, 0):
            part = text.isel(run=0, prompt=place)
            assert "".join(read(part)) == model.decode(part["id"].values.tolist())
            assert read(part.isel(token=slice(3, 6))) == read(part)[3:6]


def test_an_older_trace_is_read_by_its_vocabulary():
    model = model_with(byte_level())
    ids = model.encode("two, and", start=False)
    seen = trace.build({"tokens": trace.tokens(ids)}, model=model, kind="observe", recipe=[], used=ids)
    seen["tokens"] = seen["tokens"].to_dataset().drop_vars("piece")
    del seen.attrs["pieces"]
    assert "".join(trace.words(seen)(seen["tokens"].to_dataset())) == "two, and"


def test_tokens_that_stand_for_nothing_are_left_out():
    model = model_with(byte_level())
    ids = model.encode("two", start=False)
    seen = trace.build({"tokens": trace.tokens([*ids, -1])}, model=model, kind="observe", recipe=[], used=ids)
    assert seen["tokens/piece"].values[-1] == -1 and seen["tokens/piece"].dtype == np.int32
    assert "".join(trace.words(seen)(seen["tokens"].to_dataset())) == "two"
    assert set(json.loads(seen.attrs["pieces"])) == set(model.pieces(ids))


@pytest.mark.bundled
def test_the_bundled_model_s_text_stands_in_its_report(bundled, tmp_path):
    for text in (" 你好世界 🦙🦙 naïve", *TEXTS.values()):
        ids = bundled.encode(text)
        assert "".join(bundled.pieces(ids)) == text
        seen = trace.build({"tokens": trace.tokens(ids)}, model=bundled, kind="observe", recipe=[], used=ids)
        page = figures.report(seen, tmp_path / "seen.html").read_text("utf-8")
        assert shown(page) == [text] and BROKEN not in page

"""What is said of exits' confidence against every token by itself, and what gates of the bundled model are worth."""

import json
import threading

import numpy as np
import pytest
import torch
from metrics.test_calibration import slow_error
from techniques.trained_parts import needs_artefact

import workbench as wb
from workbench import figures, trace
from workbench.errors import SettingError
from workbench.parts.exits import load_lens
from workbench.parts.exits.joint import load_joint

PROMPTS = [list(range(3, 12)), list(range(20, 34))]
UNTRAINED = {"lens": "untrained", "joint": "untrained"}


@pytest.fixture(scope="module")
def read(tiny):
    found = wb.exit_calibration(tiny("llama", layers=6), PROMPTS, max_new_tokens=20, **UNTRAINED)
    return trace.check(found)


def slow(model):
    """(confidence, token said) by reader, layer and token, gates by layer and token, tokens due: one text at a time."""
    from workbench.engine import Decoder

    lenses = [load_lens(model, "logit"), load_lens(model, "untrained"), load_joint(model, "untrained")]
    layers, tokens = lenses[2].layers, []
    for place, prompt in enumerate(PROMPTS):
        steps = wb.generate(model, prompt, max_new_tokens=20, temperature=0.7, seed=place)
        answer = [token for step in steps for token in step.tokens]
        decoder = Decoder(model)
        with torch.inference_mode():
            for at, token in enumerate([*prompt, *answer]):
                if at >= len(prompt):
                    tokens[-1]["text"] = token
                if at == len(prompt) + len(answer) - 1:
                    break
                with decoder.open([token]) as opened:
                    said, opens = {}, []
                    for layer in range(model.layers):
                        opened.run(until=layer + 1)
                        x = opened.x[0]
                        if layer in layers:
                            for reader, lens in enumerate(lenses):
                                best = model.anatomy.unembed(lens.stream(x, layer))[0].double().softmax(-1).max(-1)
                                said[reader, layer] = float(best.values), int(best.indices)
                            logits = model.anatomy.unembed(lenses[2].stream(x, layer))[:, : lenses[2].tokens]
                            opens.append(float(lenses[2].leaves(layer, logits)))
                    last = int(model.anatomy.unembed(x).argmax())
                    opened.finish()
                if at >= len(prompt) - 1:
                    tokens.append({"said": said, "gates": opens, "full model": last})
    return layers, tokens


def test_it_is_what_every_token_says(tiny, read):
    model, data = tiny("llama", layers=6), read["exit_calibration"]
    layers, tokens = slow(model)
    readers, places, targets = (json.loads(read.attrs[name]) for name in ("readers", "places", "targets"))
    assert places == [*layers, -1] and readers == ["logit lens", "tuned lens", "joint exits"]
    left = sum(max(token["gates"]) > 0.5 for token in tokens)
    assert 0 < left < len(tokens)
    for reader in range(3):
        for place, layer in enumerate(layers):
            for target, name in enumerate(targets):
                chances, hits = zip(
                    *((t["said"][reader, layer][0], t["said"][reader, layer][1] == t[name]) for t in tokens)
                )
                at = data.isel(reader=reader, place=place, target=target)
                assert float(at["error"]) == pytest.approx(slow_error(chances, hits, 10), abs=1e-4)
                assert float(at["accuracy"]) == pytest.approx(np.mean(hits)) and int(at["tokens"]) == len(tokens)
        cutoff = float(data["cutoff"][reader])
        chances, hits, depths = [], [], []
        for token in tokens:
            sure = [token["said"][reader, layer][0] for layer in layers]
            opened = [gate > 0.5 for gate in token["gates"]] if reader == 2 else [each > cutoff + 1e-6 for each in sure]
            depths.append(layers[opened.index(True)] + 1 if any(opened) else 6)
            if any(opened):
                chances.append(sure[opened.index(True)])
                hits.append(token["said"][reader, layers[opened.index(True)]][1] == token["full model"])
        at = data.isel(reader=reader, place=-1, target=0)
        assert len(hits) == left == int(at["tokens"]), "as many leave by each"
        assert float(at["error"]) == pytest.approx(slow_error(chances, hits, 10), abs=1e-4)
        assert float(data["layers"][reader]) == pytest.approx(np.mean(depths))
    assert np.isnan(float(data["cutoff"][2]))


def test_where_all_gates_are_open_all_leave_at_the_first_exit(tiny):
    model = tiny("llama", layers=6)
    found = wb.exit_calibration(model, PROMPTS, threshold=0.0, max_new_tokens=8, **UNTRAINED)["exit_calibration"]
    assert (found["layers"] == 2).all() and (found["tokens"] == 16).all()
    np.testing.assert_allclose(found["error"][:, 0], found["error"][:, -1])
    none = wb.exit_calibration(model, PROMPTS, threshold=1.0, max_new_tokens=8, **UNTRAINED)
    data = none["exit_calibration"]
    assert (data["layers"] == 6).all() and (data["tokens"][:, -1] == 0).all() and np.isnan(data["error"][:, -1]).all()
    assert "no token leaves" in json.dumps(figures.exit_calibration(none).to_dict())


def test_its_figure_says_the_errors_and_of_how_many(read):
    spec = figures.exit_calibration(read).to_dict()
    data = read["exit_calibration"]
    *diagrams, lines = spec["vconcat"]
    for target, row in enumerate(diagrams):
        for reader, panel in enumerate(row["hconcat"]):
            at = data.isel(reader=reader, place=-1, target=target)
            assert panel["title"]["subtitle"] == f"ECE {float(at['error']):.3f}, n {int(at['tokens'])}"
    tables = [rows for rows in spec["datasets"].values() if "layer" in rows[0]]
    assert len(lines["hconcat"]) == len(tables) == 2 and all(len(rows) == 12 for rows in tables)
    for target, rows in enumerate(tables):
        want = data["error"].isel(target=target, place=slice(0, -1)).values.ravel()
        np.testing.assert_allclose([row["error"] for row in rows], want, rtol=1e-4)


def test_what_cannot_be_read_is_refused_and_it_can_be_cancelled(tiny):
    model, cancel = tiny("llama"), threading.Event()
    with pytest.raises(SettingError, match="give a prompt"):
        wb.exit_calibration(model, [], **UNTRAINED)
    with pytest.raises(SettingError, match="workbench train joint_exit"):
        wb.exit_calibration(model, PROMPTS)
    cancel.set()
    assert wb.exit_calibration(model, PROMPTS, cancel=cancel, **UNTRAINED) is None


@needs_artefact("joint_exit")
@pytest.mark.bundled(seconds=20)
def test_joint_exits_of_the_bundled_model_are_nearer_to_what_they_are_sure_of(bundled):
    prompts = [bundled.chat(each) for each in ("Why is the sky blue?", "How is bread made?", "What is a prime number?")]
    found = wb.exit_calibration(bundled, prompts, max_new_tokens=64)["exit_calibration"].isel(target=0)
    logit, tuned, joint = found["error"].isel(place=slice(0, -1)).mean("place").values.tolist()
    assert joint < logit and joint < tuned + 0.05

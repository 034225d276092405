"""Shares by layer against texts read one token after the other, and a controller judged by counting."""

import threading

import numpy as np
import pytest
import torch
from helpers import random_tokens, run, tokens_of

import workbench as wb
from workbench import figures, trace
from workbench.errors import SettingError
from workbench.metrics import mean_interval
from workbench.models.tiny import tiny as tiny_model
from workbench.parts.exit_controller import EXIT, NAME, STOP, ExitController, load_controller
from workbench.parts.exits import load_lens

TEXTS = [
    [*prompt, *tokens_of(run(tiny_model("llama"), prompt, new=10 + seed))]
    for seed in range(7)
    for prompt in [random_tokens(8, seed)]
]
"""Of tokens drawn by chance, and what the model says after them."""
OPENING = 4


@pytest.fixture(scope="module")
def weights(tiny, tmp_path_factory):
    from workbench import artifacts

    place, model = tmp_path_factory.mktemp("drawn"), tiny("llama")
    part, generator = ExitController(3, 32), torch.Generator().manual_seed(5)
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    artifacts.save(NAME, part.state_dict(), {"model": {"name": model.name, "revision": model.revision}}, place)
    return str(place / f"{NAME}.safetensors")


@pytest.fixture(scope="module")
def found(tiny, weights):
    return trace.check(wb.layers_right(tiny("llama"), TEXTS, "untrained", weights, OPENING))


def by_hand(model, weights):
    """Of every text, place and layer: whether the layer is right, and what the controller says."""
    lens, controller = load_lens(model, "untrained"), load_controller(model, weights)
    for text in TEXTS:
        seen = model.hf(torch.tensor([text]), output_hidden_states=True)
        states = [*seen.hidden_states[1:-1]]
        rows = []
        for place in range(OPENING, len(text) - 1):
            right = [int(model.anatomy.unembed(lens.stream(x[0, place], layer)).argmax()) == text[place + 1]
                     for layer, x in enumerate(states)]  # fmt: skip
            right.append(int(seen.logits[0, place].argmax()) == text[place + 1])
            said = [int(controller.chances(layer, x[0, place][None]).argmax()) for layer, x in enumerate(states)]
            rows.append((right, said))
        yield rows


def test_shares_and_their_intervals_are_what_is_counted(tiny, weights, found):
    data = found["layers_right"].to_dataset()
    counted = list(by_hand(tiny("llama"), weights))
    tokens = np.array([len(rows) for rows in counted])
    assert data.attrs["texts"] == len(TEXTS) and data.attrs["tokens"] == tokens.sum()
    for layer in range(4):
        right = np.array([sum(row[0][layer] for row in rows) for rows in counted])
        so_far = np.array([sum(any(row[0][: layer + 1]) for row in rows) for rows in counted])
        for name, values in (("right", right), ("so_far", so_far)):
            wanted = mean_interval(values, tokens, 0, 1)
            got = [float(data[name + end][layer]) for end in ("", "_low", "_high")]
            np.testing.assert_allclose(got, wanted)
    never = np.array([sum(not any(row[0]) for row in rows) for rows in counted])
    assert float(data["never"]) == pytest.approx(never.sum() / tokens.sum()) and 0 < never.sum() < tokens.sum()
    assert float(data["so_far"][-1]) == pytest.approx(1 - float(data["never"]))


def test_what_a_controller_says_is_judged_layer_by_layer(tiny, weights, found):
    data = found["layers_right"].to_dataset()
    rows = [row for rows in by_hand(tiny("llama"), weights) for row in rows]
    for layer in range(3):
        due = [STOP if not any(right) else EXIT if any(right[: layer + 1]) else None for right, _ in rows]
        said = [chosen[layer] for _, chosen in rows]
        for name, kind in (("exit", EXIT), ("stop", STOP)):
            hits = sum(one == kind == other for one, other in zip(due, said))
            for what, whole in (("precision", said), ("recall", due)):
                got, count = float(data[f"{name}_{what}"][layer]), whole.count(kind)
                assert got == pytest.approx(hits / count) if count else np.isnan(got)
    assert "exit_recall" not in wb.layers_right(tiny("llama"), TEXTS[:2], "logit")["layers_right"]


def test_its_figure_has_every_share_and_says_how_many(found):
    spec = figures.layers_right(found).to_dict()
    data = found["layers_right"].to_dataset()
    tables = [table for table in spec["datasets"].values() if "layer" in table[0]]
    lines = {(row["what"], row["layer"]): row["share"] for table in tables for row in table}
    for layer in range(4):
        assert lines["this layer", layer] == pytest.approx(float(data["right"][layer]), rel=1e-4)
    assert lines["are hopeless: found", 1] == pytest.approx(float(data["stop_recall"][1]), rel=1e-4)
    assert f"{data.attrs['tokens']} tokens of {len(TEXTS)} texts" in " ".join(spec["title"]["subtitle"])


def test_short_texts_are_left_out_and_none_is_refused(tiny):
    model = tiny("llama")
    some = wb.layers_right(model, [TEXTS[0], [5, 6, 7]], "logit", opening=OPENING)
    assert some["layers_right"].attrs["texts"] == 1
    with pytest.raises(SettingError, match="no text has more than 5 tokens"):
        wb.layers_right(model, [[5, 6, 7]], "logit", opening=OPENING)
    with pytest.raises(SettingError, match="workbench train completion_stop"):
        wb.layers_right(model, TEXTS, "logit", "bundled")
    cancel = threading.Event()
    cancel.set()
    assert wb.layers_right(model, TEXTS, "logit", cancel=cancel) is None

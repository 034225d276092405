"""Objects say what they are in a line, and in a notebook in a few rows; nothing in them is taken for markup."""

import dataclasses

import numpy as np
import pytest
import torch

import workbench as wb
from workbench.engine.recipe import Recipe
from workbench.engine.verify_cost import VerifyCost
from workbench.models.tiny import tiny as tiny_model
from workbench.shown import facts_html
from workbench.techniques import PromptLookup, SnapKV
from workbench.training.data import TrainingData

MARKUP = "</script><b>&\"'"


@pytest.fixture(scope="module")
def model():
    made = tiny_model("llama", seed=1)
    made.name = f"a{MARKUP}"
    return made


@pytest.fixture(scope="module")
def result(model):
    return wb.run(model, [3, 4, 5, 3, 4, 5], [PromptLookup()], max_new_tokens=8, stop_tokens=())


def test_every_repr_is_one_short_true_line(model, result):
    generation = wb.generate(model, [3, 4, 5], max_new_tokens=4, stop_tokens=(), logits=True, logprobs=3)
    assert "not over: 0 tokens after 3" in repr(generation)
    steps = list(generation)
    assert "over: 4 tokens after 3" in repr(generation) and "not over" not in repr(generation)
    texts = torch.zeros(2, 9, dtype=torch.int32)
    data = TrainingData(texts, texts.bool(), torch.tensor([9, 4]), torch.tensor([True, False]))
    expected = {
        model: ("LlamaForCausalLM", "4 layers", "float32", "cpu"),
        result: ("prompt_lookup", "8 tokens", "tokens/s", "measured"),
        steps[0]: ("Step 0", "prefill", str(steps[0].tokens)),
        generation: ("the model alone",),
        generation.state: ("7 tokens", "bytes"),
        next(iter(generation.state.caches.values())): ("4 layers after 6 tokens",),
        Recipe([PromptLookup(), SnapKV(keep=0.5)]): ("PromptLookup", "SnapKV(keep=0.5"),
        VerifyCost([1, 16], [0.01, 0.012]): ("10 ms for a token", "1.2 times", "16"),
        data: ("2 texts", "1 of them", "13 tokens"),
    }
    for instance, parts in expected.items():
        text = repr(instance)
        assert "\n" not in text and len(text) < 220 and "Linear" not in text and "tensor(" not in text, text
        assert all(part in text for part in parts), text
    cancelled = dataclasses.replace(result, cancelled=True)
    assert "cancelled" in repr(cancelled) and "cancelled" not in repr(result)
    assert "a beginning" in cancelled._repr_html_()


def test_a_run_of_one_token_or_none_names_no_speed(model, result):
    for steps in ([], result.steps[:1]):
        assert "tokens/s" not in repr(dataclasses.replace(result, steps=steps, time_to_first_token=float("nan")))


def test_in_a_notebook_text_stays_text(model, result):
    for instance in (model, result):
        shown = instance._repr_html_()
        assert MARKUP not in shown and "</script" not in shown and "<b>" not in shown
        assert "&lt;/script&gt;&lt;b&gt;&amp;&quot;&#x27;" in shown and len(shown) < 5000
    assert "tokens are ids" not in model._repr_html_() and "prompts are token ids" in model._repr_html_()
    long = facts_html(MARKUP, {MARKUP: "x" * 5000, "n": 12345})
    assert "4,400 more characters" in long and "12,345" in long and "</script" not in long


def test_a_study_is_shown_with_the_columns_that_matter(model):
    study = wb.compare(
        model, [[3, 4, 5, 3, 4]] * 2, {f"x{MARKUP}": [PromptLookup()]}, max_new_tokens=4, repeats=1, hardware=()
    )
    shown = study._repr_html_()
    first = shown[shown.index("<table>") : shown.index("</table>")]
    assert first.count('scope="col"') <= 14 < study.table().shape[1]
    assert "<summary>All columns</summary>" in shown and "columns" not in first
    assert MARKUP not in shown and "</script" not in shown.replace("</style>", "")
    digits = [cell for cell in np.char.array(first.split("<td>")[1:]) if "." in cell]
    assert digits and all(len(cell.split("<")[0].replace(".", "").replace(",", "").lstrip("0")) <= 5 for cell in digits)


def test_a_printed_study_is_its_table(model):
    study = wb.compare(model, [[3, 4, 5]], {MARKUP: [PromptLookup()]}, max_new_tokens=4, repeats=1, quality=False)
    assert "on 1 prompt:" in repr(study)
    assert str(study) == "\n".join(study.lines()) and "speed-up" in str(study) and "\n" not in repr(study)

"""A result is kept for as long as what the names in its recipe stand for is the same, and what changed is said."""

import json

import pytest
import torch
from models.test_second_model import write
from studies.made_up import MACHINE

from workbench import artifacts
from workbench.engine import Run, Sampler
from workbench.models import fingerprint
from workbench.models.load import load
from workbench.models.tiny import tiny
from workbench.parts.acceptance import NAME as ACCEPTANCE_HEAD
from workbench.parts.acceptance import AcceptanceHead
from workbench.registry import PROBES, TECHNIQUES
from workbench.settings import describe, outside, references
from workbench.studies.compare import compare
from workbench.studies.contents import changed, contents
from workbench.studies.run import recipe
from workbench.techniques import CandidateLength, DraftModel, RandomEviction, SuffixDraft


@pytest.fixture
def main(tmp_path):
    return write(tmp_path / "main")


@pytest.fixture
def study(main, tmp_path):
    """A comparison that keeps its results, the main model loaded anew; the study and how much of it was kept."""

    def made(technique):
        said = []
        found = compare(
            load(str(main), device="cpu"), ["w3 w4 w5"], {"it": technique}, 6, 1, stop_tokens=(), quality=False,
            hardware=(MACHINE,), folder=tmp_path / "kept", progress=lambda done, total, message: said.append(message),
        )  # fmt: skip
        return found, sum("kept from before" in message for message in said), said

    return made


def test_the_models_own_weights(study, main):
    assert study("snap_kv")[1] == 0 and study("snap_kv")[1] == 2
    write(main, seed=7)
    found, kept, said = study("snap_kv")
    assert kept == 0 and any("computed anew" in message and "main changed" in message for message in said)
    assert any(f"since {str(main)[:60]} changed" in remark for remark in found.remarks)
    assert study("snap_kv")[1] == 2 and not any("Computed anew" in each for each in study("snap_kv")[0].remarks)
    # What was true before is true again.
    write(main, seed=0)
    assert study("snap_kv")[1] == 2


def test_weights_changed_in_memory_count_too(main, tmp_path):
    model, said = load(str(main), device="cpu"), []

    def again():
        said.clear()
        options = {"stop_tokens": (), "quality": False, "hardware": (MACHINE,), "folder": tmp_path / "kept"}
        compare(model, [[3, 4]], {}, 4, 1, progress=lambda done, total, message: said.append(message), **options)
        return sum("kept" in message for message in said)

    assert (again(), again()) == (0, 1)
    with torch.no_grad():
        model.hf.lm_head.weight.mul_(-1)
    assert (again(), again()) == (0, 1)


def test_a_draft_model_in_a_folder(study, main, tmp_path):
    small = write(tmp_path / "small", seed=3)
    recipe = f"draft_model:model={small},draft=2"
    assert study(recipe)[1] == 0 and study(recipe)[1] == 2
    write(small, seed=4)
    found, kept, _ = study(recipe)
    assert kept == 1 and any("draft_model's model changed" in remark for remark in found.remarks)


def test_a_corpus(study, tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("w3 w4 w5 w6")
    assert study(f"suffix_draft:corpus={file}")[1] == 0 and study(f"suffix_draft:corpus={file}")[1] == 2
    file.write_text("w3 w4 w5 w7")
    found, kept, _ = study(f"suffix_draft:corpus={file}")
    assert kept == 1 and any("suffix_draft's corpus changed" in remark for remark in found.remarks)


def test_a_trained_part(study, main, tmp_path):
    def trained(seed):
        torch.manual_seed(seed)
        model = load(str(main), device="cpu")
        head = {key: torch.randn_like(value) for key, value in AcceptanceHead(32, 1).state_dict().items()}
        facts = {"model": {"name": artifacts.name_of(model), "revision": "local"}}
        artifacts.save(ACCEPTANCE_HEAD, head, facts, tmp_path / "part")
        return f"candidate_length:model=/2,weights={tmp_path / 'part' / ACCEPTANCE_HEAD}.safetensors"

    assert study(trained(1))[1] == 0 and study(trained(1))[1] == 2
    found, kept, _ = study(trained(2))
    assert kept == 1 and any("candidate_length's weights changed" in remark for remark in found.remarks)
    assert found.runs[1]["failed"] is None


def test_a_techniques_own_code(study, monkeypatch):
    """Whoever writes a technique runs it again after every change of its file."""
    recipe = [RandomEviction(keep=0.4)]
    assert study(recipe)[1] == 0 and study(recipe)[1] == 2
    policy = type(recipe[0].start(Run(tiny("llama"), (3, 4), 2, Sampler(), 0)))
    monkeypatch.setattr(policy, "scores", _other_scores)
    found, kept, _ = study(recipe)
    assert kept == 1 and any("random_eviction's code changed" in remark for remark in found.remarks)


def _other_scores(self, layer, query, cache, earlier):
    return torch.zeros(query.shape[1], earlier)


_other_scores.__module__ = RandomEviction.__module__


def test_another_version_of_the_workbench(study, monkeypatch):
    assert study("snap_kv")[1] == 0
    monkeypatch.setattr("workbench.__version__", "0.0")
    found, kept, _ = study("snap_kv")
    assert kept == 0 and any("the workbench's version changed" in remark for remark in found.remarks)


def test_a_recipe_says_what_its_names_stand_for(tmp_path):
    model = tiny("llama")
    said = recipe(model, [1], [CandidateLength(model="/2", weights="untrained"), DraftModel()], {})["content"]
    assert said["model"] == fingerprint.of_model(model)
    assert said["techniques"] == [{}, {"model": fingerprint.of_path(artifacts.folder())}]
    nested = SuffixDraft(auxiliary=f"draft_model:model={tmp_path / 'gone'}")
    assert contents(model, [nested])["techniques"][0]["auxiliary"]
    assert json.dumps(said)


def test_what_changed_is_named():
    model, now = tiny("llama"), {"model": "a", "techniques": [{"corpus": "b"}], "code": ["c"], "workbench": "1"}
    assert changed(now, now, model, [SuffixDraft()]) == []
    other = {"model": "x", "techniques": [{"corpus": "y"}], "code": ["z"], "workbench": "2"}
    assert changed(other, now, model, [SuffixDraft()]) == [
        "tiny-llama", "suffix_draft's corpus", "suffix_draft's code", "the workbench's version"
    ]  # fmt: skip
    assert changed("damaged", now, model, [SuffixDraft()]) and changed({}, now, model, [SuffixDraft()])


def test_every_setting_that_is_free_text_says_what_it_names():
    """Only then a study looks behind the name, and the page lets no visitor write a path there."""
    kinds = [*TECHNIQUES.values(), *PROBES.values()]
    free = [
        f"{kind.name}.{setting}"
        for kind in kinds
        if kind.__module__.startswith("workbench.")
        for setting, field in describe(kind).items()
        if field.get("type", "string") == "string" and not {"enum", "pattern", "outside"} & set(field)
    ]
    assert free == [], "declare what it names: Annotated[str, outside(…)]"
    assert dict((name, what) for name, what, _ in references(SuffixDraft())) == {
        "corpus": "text", "auxiliary": "technique"
    }  # fmt: skip
    assert outside("text", "a file", min_length=1).json_schema_extra == {"outside": "text"}

"""The trained parts that come with the workbench: each has its card, its checksum, its recipe and its model."""

import json
import re

from workbench import artifacts
from workbench.models.bundled import BUNDLED
from workbench.models.manifest import sha256
from workbench.settings import build
from workbench.training import RECIPES

LIMIT = 100_000_000  # bytes in all


def test_every_artefact_is_what_its_card_says():
    files = sorted(artifacts.folder().glob("*.safetensors"))
    for file in files:
        card = artifacts.card(file)
        assert card["recipe"] == file.stem and card["sha256"] == sha256(file)
        assert card["model"] == {"name": "smollm2-135m", "revision": BUNDLED["smollm2-135m"].revision}
        # One that was stopped before its end says so by its steps.
        assert card["steps"] <= build(RECIPES[file.stem], card["settings"]).steps
        assert card["seconds"] > 0 and card["machine"] and card["data"]["tokens"] and card["result"]
        first, *others = card["curve"]["held_out_loss"]
        assert min(others) < first, f"{file.stem} has not learned"
    assert sum(file.stat().st_size for file in files) <= LIMIT


def test_no_card_holds_a_path():
    for file in artifacts.folder().glob("*.json"):
        assert not re.search(r'"(/|~|\.{1,2}/|[A-Za-z]:\\)|/(tmp|home|root|Users)/', file.read_text("utf-8")), file.name


def test_the_acceptance_head_belongs_to_the_draft_model_and_says_what_it_is_worth():
    """Better than always saying the same. The draft model's own probability, which may be better, stands beside it."""
    card = artifacts.card(artifacts.folder() / "acceptance_head.safetensors")
    draft = artifacts.card(artifacts.folder() / "draft_model.safetensors")
    assert card["prepared"]["draft_model"] == draft["sha256"]
    assert card["settings"]["decoding"] == "sampled" and card["settings"]["mixing"] == 0.85
    curve, best = card["curve"], card["best_step"]
    assert curve["held_out_loss"][curve["held_out_step"].index(best)] == min(curve["held_out_loss"][1:])
    for group in (card["result"], card["other_pages"]["result"]):
        found = {key.removeprefix("held_out_"): value for key, value in group.items()}
        assert found["foretold"] > max(found["always_rejecting"], found["accepted"]) and "by_probability" in found
        assert found["divergence"] < found["constant_divergence"]


def test_every_card_says_how_the_part_does_on_pages_it_was_not_trained_on():
    for file in artifacts.folder().glob("*.safetensors"):
        other = artifacts.card(file)["other_pages"]
        assert other["data"]["texts"] >= 40
        assert any(name in other["data"]["sources"] for name in ("load_prompts", "held_out_functions"))
        assert set(other["result"]) == {key.removeprefix("held_out_") for key in artifacts.card(file)["result"]}


def test_no_card_is_without_its_artefact():
    for card in artifacts.folder().glob("*.json"):
        assert card.with_suffix(".safetensors").is_file(), f"{card.name} is a card of nothing"
        assert "/" not in json.loads(card.read_text("utf-8"))["machine"]

"""The trained parts that come with the workbench: each has its card, its checksum, its recipe and its model."""

import json

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
        assert build(RECIPES[file.stem], card["settings"]).steps == card["steps"]
        assert card["seconds"] > 0 and card["machine"] and card["data"]["tokens"] and card["result"]
        assert card["curve"]["held_out_loss"][-1] < card["curve"]["held_out_loss"][0], f"{file.stem} has not learned"
    assert sum(file.stat().st_size for file in files) <= LIMIT


def test_no_card_is_without_its_artefact():
    for card in artifacts.folder().glob("*.json"):
        assert card.with_suffix(".safetensors").is_file(), f"{card.name} is a card of nothing"
        assert "/" not in json.loads(card.read_text("utf-8"))["machine"]

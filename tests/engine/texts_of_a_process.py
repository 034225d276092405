"""Texts of the bundled model in bfloat16 as this process writes them, as JSON; see ``test_one_text.py``.

``python texts_of_a_process.py PROMPTS NEW_TOKENS RECIPE …``: for every recipe (``-`` is the baseline) the
tokens that follow the end of every prompt, or why the recipe does not apply.
"""

import json
import sys

import workbench as wb
from workbench.errors import ModelError, SettingError
from workbench.registry import TECHNIQUES
from workbench.settings import parse
from workbench.tasks import encode_prompt, load_prompts


def main(prompts: int, new: int, recipes: list[str]) -> dict:
    import workbench.techniques  # noqa: F401  fills the registry

    model = wb.load("smollm2-135m", dtype="bfloat16", device="cpu")
    ids = [encode_prompt(model.tokenizer, each)[-64:] for each in load_prompts("mixed", limit=prompts)]
    found: dict = {"arithmetic": model.arithmetic}
    for recipe in recipes:
        try:
            techniques = [] if recipe == "-" else parse(recipe, TECHNIQUES)
            found[recipe] = [
                [token for step in wb.generate(model, each, techniques, max_new_tokens=new) for token in step.tokens]
                for each in ids
            ]
        except (SettingError, ModelError) as error:
            found[recipe] = str(error)
    return found


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))

"""Hypothesis strategies: any settings of any technique, from its own schema, and any recipe of them."""

from hypothesis import strategies as st

import workbench.techniques  # noqa: F401  fills the registry
from workbench.engine import SLOTS
from workbench.errors import WorkbenchError
from workbench.registry import TECHNIQUES
from workbench.settings import build, describe

# Settings that name something outside the recipe: a cut of the model itself and untrained parts need nothing, and a
# modelled cost drafts the same number of tokens at every speed of the machine.
NAMES = {
    "model": ["auto", "/0.5", "/1.0", "/2"],
    "small": ["/0.5", "/2"],
    "weights": ["untrained"],
    "lens": ["logit", "untrained"],
    "cost": ["modelled"],
    "corpus": [""],
    "auxiliary": ["", "trigram_draft"],
    "device": [""],
}


def values_of(setting, field):
    """Values that a setting's schema allows, its ends more often than the rest."""
    if setting in NAMES:
        return st.sampled_from(NAMES[setting])
    if "enum" in field:
        return st.sampled_from(field["enum"])
    if "pattern" in field:
        return st.from_regex(field["pattern"], fullmatch=True)
    if field["type"] == "boolean":
        return st.booleans()
    if field["type"] in ("integer", "number"):
        return _number(field)
    return st.just(field["default"])


def _number(field):
    whole = field["type"] == "integer"
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum", field.get("exclusiveMaximum"))
    ends = [field[end] for end in ("minimum", "maximum", "default") if end in field]
    # The middle of a wide range is as far from anything as its end: small values meet small prompts.
    wide = st.integers(low, min(high, 80)) if whole else st.floats(low, high, allow_nan=False)
    if "exclusiveMinimum" in field:
        wide = wide.filter(lambda value: value > low)
    if "exclusiveMaximum" in field:
        wide = wide.filter(lambda value: value < high)
    return st.sampled_from(ends) | wide


@st.composite
def techniques(draw, names=tuple(TECHNIQUES)):
    """A technique with settings of its own schema; its neutral one where it has a rule that the schema cannot say."""
    kind = TECHNIQUES[draw(st.sampled_from(names))]
    schema = describe(kind)
    outside = [name for name in schema if name in NAMES]
    chosen = draw(st.sets(st.sampled_from(sorted(schema)), max_size=4)) if schema else set()
    try:
        return build(kind, {name: draw(values_of(name, schema[name])) for name in sorted(chosen.union(outside))})
    except WorkbenchError:
        return kind.neutral()


@st.composite
def recipes(draw, longest=3):
    """Techniques for different slots, so that most recipes can run."""
    chosen, free = [], list(TECHNIQUES)
    for _ in range(draw(st.integers(1, longest))):
        chosen.append(draw(techniques(tuple(free))))
        free = [name for name in free if _together(name, chosen)]
        if not free:
            break
    return chosen


def _together(name, chosen):
    kind = TECHNIQUES[name]
    taken = {slot for each in chosen for slot in each.slots if SLOTS[slot] == "one"}
    return not taken.intersection(kind.slots)

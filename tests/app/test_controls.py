"""Controls are made from what a class says of its settings, and give it back."""

from typing import Annotated, Literal

import gradio as gr
import pytest
from pydantic import Field

from workbench.engine import SLOTS, generate
from workbench.errors import IncompatibleTechniques, SettingError
from workbench.listing import by_slot
from workbench.models.tiny import tiny
from workbench.registry import PROBES, TECHNIQUES
from workbench.settings import describe, settings
from workbench_app.controls import RecipeControls, Settings, _heading, control, step_of
from workbench_app.plain import message


@settings
class Example:
    """A setting of every kind."""

    share: Annotated[float, Field(gt=0, le=1, description="a share")] = 0.5
    count: Annotated[int, Field(ge=1, le=64)] = 3
    far: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    on: bool = True
    kind: Literal["avg", "max"] = "avg"
    perhaps: Annotated[int | None, Field(ge=0)] = None
    name: Annotated[str, Field(min_length=1)] = "x"
    several: tuple[int, ...] = (1, 2)

    slots = ("draft",)


type.__setattr__(Example, "name", "example")


@pytest.fixture
def made():
    with gr.Blocks(analytics_enabled=False):
        yield Settings.render(Example)


def test_every_kind_of_setting_has_its_control(made):
    kinds = [type(component) for component in made.components]
    assert kinds == [gr.Slider, gr.Slider, gr.Number, gr.Checkbox, gr.Dropdown, gr.Textbox, gr.Textbox, gr.Textbox]
    share, count, far = made.components[:3]
    assert (share.minimum, share.maximum, share.step, share.info) == (0.01, 1, 0.01, "a share")
    assert (count.minimum, count.maximum, count.step) == (1, 64, 1)
    assert (far.minimum, far.maximum, far.precision) == (1, 1_000_000, 0)


def test_values_come_back_as_the_class_takes_them(made):
    assert made.build([component.value for component in made.components]) == Example()
    built = made.build([0.25, 4, 9, False, "max", "12", "y", "[5, 6]"])
    assert built == Example(share=0.25, count=4, far=9, on=False, kind="max", perhaps=12, name="y", several=(5, 6))
    with pytest.raises(SettingError, match="share"):
        made.build([2, 4, 9, False, "max", "", "y", "[5, 6]"])
    with pytest.raises(SettingError, match="must be JSON"):
        made.build([0.5, 4, 9, False, "max", "", "y", "five"])


@pytest.mark.parametrize("registry", [TECHNIQUES, PROBES], ids=["techniques", "probes"])
def test_what_the_controls_show_at_first_is_every_class_as_it_is(registry):
    import workbench.probes
    import workbench.techniques

    assert (
        len(registry) == len(workbench.registry.TECHNIQUES if registry is TECHNIQUES else workbench.registry.PROBES) > 0
    )
    with gr.Blocks(analytics_enabled=False):
        for cls in registry.values():
            made = Settings.render(cls)
            assert made.build([component.value for component in made.components]) == cls()


def test_a_step_reaches_the_default():
    for field in ({"minimum": 1.0, "maximum": 16.0, "default": 1.25}, {"minimum": 0, "maximum": 1, "default": 0.005}):
        steps = (field["default"] - field["minimum"]) / step_of(field)
        assert steps == pytest.approx(round(steps))


def test_one_control_for_each_slot_in_the_order_of_the_engine():
    with gr.Blocks(analytics_enabled=False):
        made = RecipeControls.render("right", "prompt_lookup")
    assert list(made.choices) == [slot for slot in SLOTS if slot in by_slot()]
    assert set(made.settings) == set(TECHNIQUES)
    values = [component.value for component in made.inputs]
    assert made.recipe(values) == [TECHNIQUES["prompt_lookup"]()]
    assert made.recipe([[] if value == [] else "none" for value in values]) == []
    assert sum(group.visible for group in made._groups.values()) == 1


def test_a_technique_of_two_slots_has_one_control_and_says_what_else_it_fills():
    two = next(kind for kind in TECHNIQUES.values() if kind.slots == ("draft", "accept"))
    with gr.Blocks(analytics_enabled=False):
        made = RecipeControls.render("right", two.name)
    offered = [value for choice in made.choices.values() for _, value in choice.choices]
    assert sorted(offered) == sorted([*TECHNIQUES, *["none"] * offered.count("none")])
    assert "also fills accept" in _heading(two)
    assert made.recipe([component.value for component in made.inputs]) == [two()]


def test_two_controls_that_fill_one_slot_clash_with_a_plain_message():
    two = next(kind for kind in TECHNIQUES.values() if kind.slots == ("draft", "accept"))
    with gr.Blocks(analytics_enabled=False):
        made = RecipeControls.render("right", f"{two.name}+optimal_transport_accept")
    chosen = made.recipe([component.value for component in made.inputs])
    assert [type(each).name for each in chosen] == [two.name, "optimal_transport_accept"]
    with pytest.raises(IncompatibleTechniques) as caught:
        generate(tiny("llama"), [3, 4, 5], chosen)
    assert message(caught.value) == str(caught.value) and "'accept'" in str(caught.value)
    assert two.name in str(caught.value) and "optimal_transport_accept" in str(caught.value)


def test_slots_are_named_in_words():
    with gr.Blocks(analytics_enabled=False):
        made = RecipeControls.render("right")
    assert made.choices["draft_length"].label == "draft length"
    assert made.choices["draft_length"].elem_id == "right-slot-draft_length"


def test_a_name_that_is_not_registered_is_not_chosen():
    with gr.Blocks(analytics_enabled=False):
        made = RecipeControls.render("right", "no_such_technique")
    assert made.recipe([component.value for component in made.inputs]) == []


def test_a_list_of_choices_is_a_dropdown():
    with gr.Blocks(analytics_enabled=False):
        field = describe(Example)["kind"]
        assert [choice[0] for choice in control("kind", field).choices] == ["avg", "max"]

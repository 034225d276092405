"""What the page says when something is not as it was asked for, and that it holds together at every width."""

import re

import pytest
from driving import ask, choose, number, puppet, run
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.bundled]
expect.set_options(timeout=20_000)
EARLIER = "[data-earlier]"
WAITING = re.compile(r"queue: \d+/\d+|Waiting")


def test_who_waits_sees_it(visit):
    first, second = visit(), visit()
    puppet(first, delay=0.3)
    run(first, 100, wait=False)
    expect(first.locator("#right-view .token")).not_to_have_count(0)
    second.click("#run")
    said = second.locator("#trouble").get_by_text(WAITING).last
    expect(said).to_be_visible()
    said.scroll_into_view_if_needed()
    middle = """node => { const box = node.getBoundingClientRect();
        const there = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        return box.height >= 10 && Boolean(there?.closest("#trouble")); }"""
    assert said.evaluate(middle)
    outer, inner = second.locator("#trouble").bounding_box(), said.bounding_box()
    assert outer["y"] <= inner["y"] and inner["y"] + inner["height"] <= outer["y"] + outer["height"] + 1
    first.click("#cancel")
    expect(second.locator("#left-view .token")).not_to_have_count(0, timeout=60_000)


def test_a_number_out_of_range_is_said_with_what_is_allowed(visit):
    page = visit()
    said = page.locator("#max-new-tokens .out-of-range")
    box = page.locator("#max-new-tokens input[type=number]")
    for typed, kept in [("5000", "512"), ("-3", "1"), ("", "1")]:
        number(page, "#max-new-tokens", typed)
        expect(said).to_contain_text(f"out of range (1 to 512): set to {kept}.")
        assert box.input_value() == kept
    number(page, "#max-new-tokens", 12)
    expect(said).to_have_count(0)
    number(page, "#max-new-tokens", 5000)
    seed = page.get_by_label("seed")
    seed.fill("-5")
    seed.press("Tab")
    expect(page.get_by_text("-5 is out of range (0 to 2147483647): set to 0.")).to_be_visible()
    run(page, 2)
    expect(page.locator("#left-view .token")).to_have_count(2)


def test_what_an_earlier_run_left_is_marked_until_a_new_one_shows(visit):
    page = visit()
    ask(page, "Hello")
    run(page, 2)
    expect(page.locator("#right-view .answer")).to_have_attribute("data-state", "done")
    assert page.locator(EARLIER).count() == 0
    ask(page, " ")
    run(page, 2)
    expect(page.locator("#trouble [role=alert]")).to_contain_text("The prompt is empty")
    left = page.locator("#left-view")
    assert left.locator(".answer").count() == left.locator(EARLIER).count()  # marked where it still stands
    ask(page, "Hello")
    run(page, 3)
    expect(page.locator("#left-view .token")).to_have_count(3)
    expect(page.locator(EARLIER)).to_have_count(0)


def test_a_measurement_cancelled_as_it_warms_up_keeps_the_last_result(visit):
    page = visit()
    ask(page, "Hello")
    number(page, "#max-new-tokens", 3)
    number(page, "#more-prompts", 0)
    number(page, "#repeats", 1)
    page.click("#compare")
    expect(page.locator("#study-progress")).to_contain_text("Finished.", timeout=90_000)
    before = page.locator("#study-table").inner_text()
    puppet(page, delay=1)
    number(page, "#max-new-tokens", 100)
    page.click("#compare")
    expect(page.locator("#study-progress")).to_contain_text("warming up", timeout=60_000)
    page.wait_for_timeout(300)
    page.click("#cancel")
    expect(page.locator("#study-progress")).to_contain_text("Cancelled before anything was measured", timeout=60_000)
    assert page.locator("#study-progress [role=alert]").count() == 0
    assert page.locator("#study-table").inner_text() == before
    expect(page.locator("#study-table [data-earlier]")).to_have_count(1)
    expect(page.locator("#figures [data-earlier]")).to_have_count(1)
    expect(page.locator("#report")).to_be_enabled()


def test_a_long_prompt_is_taken_whole_or_refused_in_words(visit):
    from workbench_app.loaded import MOST_CHARACTERS, MOST_TOKENS

    page = visit()
    expect(page.locator("#prompt")).to_contain_text(f"{MOST_CHARACTERS:,} characters and {MOST_TOKENS:,} tokens")
    whole = "seven " * (MOST_CHARACTERS // 6 + 1)
    ask(page, whole)
    assert page.locator("#prompt textarea").input_value() == whole
    run(page, 2)
    said = page.locator("#trouble [role=alert]")
    expect(said).to_contain_text(f"{len(whole):,} characters; the page takes {MOST_CHARACTERS:,}")
    ask(page, "seven " * 8_300)
    run(page, 2)
    expect(said).to_contain_text("8,192 positions: shorten the prompt", timeout=60_000)


@pytest.mark.parametrize("width", [1440, 800, 390])
def test_the_page_is_no_wider_than_its_window(visit, width):
    page = visit()
    page.set_viewport_size({"width": width, "height": 900})
    ask(page, "Hello")
    run(page, 4)
    beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for tab in ("Side by side", "Observe", "Techniques"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(200)
        assert page.evaluate(beyond) <= 0, tab
        assert page.locator(".gradio-container").bounding_box()["width"] == min(width, 1500), tab
    table = page.locator("#techniques .scroll")
    # What is wider than the window can be reached.
    assert table.evaluate("node => node.scrollWidth <= node.clientWidth || getComputedStyle(node).overflowX === 'auto'")
    page.get_by_role("tab", name="Side by side").click()
    widths = [page.locator(f"#{side}-view .answer").bounding_box()["width"] for side in ("left", "right")]
    assert min(widths) >= 250


def test_a_name_that_is_markup_stays_text(visit, markup):
    page = visit()
    choose(page, "#model", "smollm2-135m")
    page.locator("#model input").fill(markup)
    page.locator("#model input").press("Enter")
    said = page.locator("#model-status [role=alert]")
    expect(said).to_contain_text("<img src=x", timeout=60_000)
    run(page, 2)
    expect(page.locator("#trouble [role=alert]")).to_contain_text("<img src=x", timeout=60_000)
    page.get_by_role("tab", name="Observe").click()
    page.click("#observe")
    expect(page.locator("#observe-trouble [role=alert]")).to_contain_text("<img src=x", timeout=60_000)
    assert page.locator("[role=alert] img").count() == 0 and page.evaluate("window.pwned") is None


def test_what_is_observed_can_be_cancelled_and_keeps_the_last_figures(visit, page_worker):
    page = visit()
    page.get_by_role("tab", name="Observe").click()
    expect(page.locator("#observe-cancel")).to_be_disabled()
    page.click("#observe")
    expect(page.locator("#observe-figures iframe")).to_have_count(1, timeout=60_000)
    expect(page.locator("#observe-cancel")).to_be_disabled()
    process = page_worker.pid
    page.fill("#observe-prompt textarea", "seven " * 4000)
    page.click("#observe")
    expect(page.locator("#observe-trouble")).to_contain_text("Observing")
    page.click("#observe-cancel")
    expect(page.locator("#observe-trouble")).to_contain_text("Cancelled before", timeout=20_000)
    expect(page.locator("#observe")).to_be_enabled()
    expect(page.locator("#observe-figures iframe")).to_have_count(1)
    assert page_worker.pid == process

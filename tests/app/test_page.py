"""The page in a real browser that reaches nothing but this machine, on the bundled model with its real weights."""

import re

import httpx
import pytest
from driving import ask, choose, number, puppet, run
from page_puppet import calls
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.bundled]
expect.set_options(timeout=20_000)


def test_two_recipes_run_side_by_side_and_colours_follow_the_choice(visit):
    page = visit()
    ask(page, "Repeat after me: one two three one two three one two three")
    run(page)
    expect(page.locator("#left-view")).to_contain_text("the baseline")
    expect(page.locator("#right-view .badge.good")).to_have_text("equal to baseline")
    expect(page.locator("#right-view .answer")).to_have_attribute("data-state", "done")
    left, right = (page.locator(f"#{side}-view .text").inner_text() for side in ("left", "right"))
    assert left == right and left.strip()
    assert page.locator("#right-view .token").count() == page.locator("#left-view .token").count() <= 8
    assert re.search(r"decoding, measured\s*\d+\.\d tokens/s", page.locator("#right-view .numbers").inner_text())
    assert "ms" in page.locator("#right-view .token").first.get_attribute("title")
    shade = "node => getComputedStyle(node).backgroundColor"
    by_time = page.locator("#left-view .token").nth(1).evaluate(shade)
    page.get_by_label("accepted draft", exact=True).check()
    expect(page.locator("#left-view .legend [data-of=draft]")).to_be_visible()
    assert page.locator("#left-view .token").nth(1).evaluate(shade) != by_time
    page.get_by_label("layers", exact=True).check()
    expect(page.locator("#left-view .legend [data-of=layers]")).to_contain_text("30 layers")


def test_a_proper_comparison_shows_table_and_figures_and_saves_a_report_that_opens_offline(
    visit, browser, tmp_path, markup
):
    page = visit()
    ask(page, f"Say hello. {markup}")
    number(page, "#max-new-tokens", 4)
    number(page, "#more-prompts", 0)
    number(page, "#repeats", 1)
    page.click("#compare")
    expect(page.locator("#study-table table")).to_be_visible(timeout=90_000)
    heads = page.locator("#study-table thead th").all_inner_texts()
    assert heads == ["", "baseline", "prompt_lookup"]
    expect(page.locator("#study-table")).to_contain_text("measured speed-up")
    frame = page.frame_locator("#figures iframe")
    frame.locator("html[data-drawn]").wait_for(timeout=60_000)
    assert frame.locator(".chart svg").count() >= 3
    expect(page.locator("#study-progress")).to_contain_text("Finished. 2 runs on 1 prompt.")
    with page.expect_download() as saved:
        page.click("#report")
    saved.value.save_as(tmp_path / "report.html")
    assert page.evaluate("window.pwned") is None
    context = browser.new_context(offline=True)
    asked = []
    context.on("request", lambda request: asked.append(request.url))
    report = context.new_page()
    report.goto((tmp_path / "report.html").as_uri())
    report.locator(".chart svg").first.wait_for(timeout=60_000)
    assert "prompt_lookup" in report.locator("body").inner_text()
    assert report.evaluate("window.pwned") is None
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def test_markup_in_prompt_settings_and_output_stays_text(visit, markup):
    page = visit()
    ask(page, markup)
    puppet(page)
    run(page, 60)
    text = page.locator("#right-view .text")
    expect(text).to_contain_text("<img src=x onerror=window.pwned=1></script>")
    expect(text).to_contain_text("${window.pwned=1}{{7*7}}")
    expect(page.locator("#right-view .badge.warning")).to_contain_text("diverges at token 0, counted from 0")
    assert page.locator("#right-view img, #right-view .text script").count() == 0
    puppet_text = page.locator("#right-puppet").get_by_label("text")
    puppet_text.fill(f"other {markup}")
    run(page, 4)
    expect(page.locator("#right-view header code")).to_contain_text("puppet:text=other <img")
    assert page.evaluate("window.pwned") is None


def test_settings_of_a_technique_that_was_just_registered_have_controls(visit):
    page = visit()
    assert page.locator("#right-puppet").count() == 0 or page.locator("#right-puppet").is_hidden()
    puppet(page, text="", depth="many")
    group = page.locator("#right-puppet")
    for label in ("text", "delay", "weight", "depth", "fails", "mode"):
        expect(group.get_by_label(label).first).to_be_visible()
    expect(group).to_contain_text("whether it raises")
    expect(group.get_by_label("depth")).to_have_attribute("placeholder", "none")
    run(page, 2)
    expect(page.locator("#trouble [role=alert]")).to_contain_text("puppet: depth='many' is not allowed")
    group.get_by_label("depth").fill("")
    run(page, 2)
    expect(page.locator("#trouble [role=alert]")).to_have_count(0)
    expect(page.locator("#right-view .token")).not_to_have_count(0)


def test_cancel_keeps_what_was_made_and_labels_it(visit, puppet_calls):
    page = visit()
    puppet(page, delay=0.3, text="one two three four five six seven eight nine ten eleven twelve thirteen")
    run(page, 100, wait=False)
    expect(page.locator("#right-view .token")).not_to_have_count(0)
    page.click("#cancel")
    expect(page.locator("#right-view .badge.warning").last).to_contain_text("partial: cancelled after")
    expect(page.locator("#run")).to_be_enabled()
    made = page.locator("#right-view .token").count()
    assert 1 <= made < 13
    assert puppet_calls() <= made + 1


def test_a_closed_tab_stops_computing(visit, puppet_calls):
    page = visit()
    puppet(page, delay=0.2)
    run(page, 200, wait=False)
    expect(page.locator("#right-view .token")).not_to_have_count(0)
    page.close()
    other = visit()
    ask(other, "Hello")
    run(other, 2)  # its turn comes only when the first run has ended
    expect(other.locator("#left-view .token")).to_have_count(2)
    calls = puppet_calls()
    other.wait_for_timeout(600)
    assert puppet_calls() == calls


def test_two_visitors_share_nothing(visit):
    first, second = visit(), visit()
    ask(first, "My name is Ada.")
    puppet(first, text="private words of the first")
    run(first, 12)
    ask(second, "Hello")
    run(second, 2)
    expect(first.locator("#right-view .text")).to_contain_text("private words")
    assert "private words" not in second.content()
    assert second.locator("#prompt textarea").input_value() == "Hello"
    expect(second.locator("#right-slot-logits")).not_to_contain_text("puppet")


def test_errors_are_plain_and_the_page_goes_on(visit):
    page = visit()
    ask(page, "   ")
    run(page, 2)
    expect(page.locator("#trouble [role=alert]")).to_contain_text("The prompt is empty")
    ask(page, "a b c d e f " * 20_000)
    run(page, 2)
    expect(page.locator("#trouble [role=alert]")).to_contain_text("the page takes")
    ask(page, "Hello")
    puppet(page, fails=True)
    run(page, 2)
    expect(page.locator("#right-view .badge.bad")).to_contain_text("The server's log has the details under")
    assert "a secret" not in page.content()
    expect(page.locator("#left-view .token")).to_have_count(2)
    choose(page, "#model", "smollm2-135m")
    page.locator("#model input").fill("/no/such/folder")
    page.locator("#model input").press("Enter")
    expect(page.locator("#model-status [role=alert]")).to_contain_text("/no/such/folder", timeout=60_000)


def test_probes_ride_a_prompt(visit, markup):
    page = visit()
    page.get_by_role("tab", name="Observe").click()
    page.fill("#observe-prompt textarea", f"Two words {markup}")
    page.locator("#probe-layer_similarity input").check()
    page.click("#observe")
    frame = page.frame_locator("#observe-figures iframe")
    frame.locator("html[data-drawn]").wait_for(timeout=60_000)
    expect(frame.locator("body")).to_contain_text("Logit lens")
    expect(frame.locator("body")).to_contain_text("Layer similarity")
    assert page.evaluate("window.pwned") is None
    page.locator("#probe-layer_similarity input").uncheck()
    page.locator("#probe-logit_lens input").uncheck()
    page.click("#observe")
    expect(page.locator("#observe-trouble [role=alert]")).to_contain_text("tick at least one")


def test_the_list_of_techniques_is_the_registry(visit):
    from workbench.engine import SLOTS
    from workbench.registry import PROBES, TECHNIQUES

    page = visit()
    page.get_by_role("tab", name="Techniques").click()
    names = page.locator("#techniques tbody td:first-child").all_inner_texts()
    assert sorted(names) == sorted(TECHNIQUES) and "puppet" in names
    assert page.locator("#techniques tbody th").first.inner_text() in SLOTS
    assert page.locator("#probe-list tbody td:first-child").all_inner_texts() == list(PROBES)
    frame = page.frame_locator("#compatibility iframe")
    frame.locator("html[data-drawn]").wait_for(timeout=60_000)
    expect(frame.locator("body")).to_contain_text("prompt lookup")


def test_a_full_queue_says_so_and_the_page_goes_on(visit, monkeypatch, address, page_worker):
    page = visit()
    puppet(page, delay=0.4)
    run(page, 100, wait=False)
    expect(page.locator("#right-view .token")).not_to_have_count(0)
    monkeypatch.setattr(page_worker, "_most", 1)
    second, third = visit(), visit()
    second.click("#run")
    expect(second.locator("#trouble")).to_contain_text("Waiting: 1 run is before this one.")
    third.click("#run")
    expect(third.locator("#trouble [role=alert]")).to_contain_text("queue is full (1 waiting): try again")
    expect(third.locator("#run")).to_be_enabled()
    expect(third.locator("#cancel")).to_be_disabled()
    second.click("#cancel")
    expect(second.locator("#trouble")).to_contain_text("Cancelled before it began.")
    page.click("#cancel")
    expect(page.locator("#run")).to_be_enabled()
    run(third, 2)
    expect(third.locator("#left-view .token")).to_have_count(2)


def test_cancel_right_after_run_and_a_new_run_right_after_that(visit):
    page = visit()
    puppet(page, delay=1)
    run(page, 300, wait=False)
    page.click("#cancel")
    expect(page.locator("#run")).to_be_enabled()
    page.click("#run")
    page.locator("#cancel:enabled").click()
    page.locator("#run:enabled").wait_for()
    run(page, 300, wait=False)
    expect(page.locator("#right-view .token")).not_to_have_count(0)
    expect(page.locator("#right-view .answer")).to_have_attribute("data-state", "running")
    page.click("#compare")  # waits behind its own page's run
    expect(page.locator("#study-progress")).to_contain_text("Waiting")
    page.click("#cancel")
    expect(page.locator("#study-progress")).to_contain_text("Cancelled before anything was measured.")
    expect(page.locator("#right-view .badge.warning").last).to_contain_text("partial: cancelled after")
    expect(page.locator("#cancel")).to_be_disabled()
    expect(page.locator("#compare")).to_be_enabled()


def test_the_page_outlives_its_worker(visit, page_worker):
    page = visit()
    ask(page, "Hello")
    puppet(page, ending="killed", after=3, delay=0.2, text="one two three four five six")
    run(page, 20)
    said = "was killed, most often because the machine ran out of memory"
    expect(page.locator("#trouble [role=alert]")).to_contain_text(said)
    expect(page.locator("#right-view .badge.bad")).to_contain_text(said)
    expect(page.locator("#right-view .token")).not_to_have_count(0)
    expect(page.locator("#left-view .token")).not_to_have_count(0)
    other = visit()
    ask(other, "Hello")
    run(other, 2)
    expect(other.locator("#left-view .token")).to_have_count(2, timeout=60_000)


@pytest.fixture
def puppet_calls(puppet):
    """How often the puppet was asked since the test began."""
    before = calls()
    return lambda: calls() - before


def test_only_this_page_is_served(address):
    for path in ("gradio_api/file=/etc/passwd", "gradio_api/file=../../../etc/passwd", "file=/etc/passwd"):
        assert httpx.get(address + path).status_code in (403, 404)
    assert httpx.get(f"{address}gradio_api/file=http://127.0.0.1:9/").status_code == 403
    assert httpx.post(f"{address}gradio_api/upload", files={"files": b"x"}).status_code == 404
    assert httpx.get(address, headers={"host": "evil.example"}).status_code == 421
    policy = httpx.get(address).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    config = httpx.get(f"{address}config").json()
    assert all(each["api_visibility"] == "private" for each in config["dependencies"])
    assert config.get("enable_queue", True)

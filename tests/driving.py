"""How a visitor uses the page: controls set, a prompt typed, a run started."""

import re

from playwright.sync_api import expect


def number(page, place, value):
    """Set a slider's or a number's value."""
    box = page.locator(f"{place} input[type=number]")
    box.fill(str(value))
    box.press("Tab")


def choose(page, place, option):
    """Choose from a list."""
    page.locator(f"{place} input").click()
    page.get_by_role("option", name=option, exact=True).click()
    page.keyboard.press("Escape")


def puppet(page, side="right", **values):
    """Choose the technique that the tests registered, with settings."""
    choose(page, f"#{side}-slot-logits", "puppet")
    group = page.locator(f"#{side}-puppet")
    expect(group).to_be_visible()
    for name, value in values.items():
        if value is True:
            group.get_by_label(name).check()
        elif name == "ending":
            group.get_by_role("combobox", name=name).click()
            page.get_by_role("option", name=value, exact=True).click()
        elif isinstance(value, str):
            group.get_by_label(name).fill(value)
        else:
            group.get_by_role("spinbutton", name=re.compile(name)).fill(str(value))
            group.get_by_role("spinbutton", name=re.compile(name)).press("Tab")


def run(page, tokens=8, wait=True):
    """Press Run, and wait until it may be pressed again."""
    number(page, "#max-new-tokens", tokens)
    page.click("#run")
    expect(page.locator("#cancel")).to_be_enabled()
    if wait:
        expect(page.locator("#run")).to_be_enabled(timeout=60_000)


def ask(page, prompt):
    """Type a prompt."""
    page.fill("#prompt textarea", prompt)
    # What is typed next must not land here, however slow the page is.
    page.locator("#prompt textarea").blur()

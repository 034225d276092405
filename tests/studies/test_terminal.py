"""The table in a terminal."""

import threading

from studies.made_up import PROMPTS, Biased, Failing

from workbench.studies.terminal import WIDTH
from workbench.techniques import PromptLookup


def test_it_fits_whatever_the_names_and_cannot_steer_the_terminal(compared):
    names = {"n" * 200: [PromptLookup()], "\x1b[31mred\x07\nnew line": [Biased()]}
    lines = compared(names, prompts=PROMPTS[:1], repeats=1).lines()
    assert [line[:3] for line in lines[3:6]] == ["bas", "nnn", " [3"]
    assert lines[6].startswith("n: prompts") and "*" not in lines[6]
    assert "cache: with the question seen" in lines
    assert max(map(len, lines)) <= WIDTH == 120
    assert all(line.isprintable() for line in lines)
    assert lines[4].startswith("nnnn") and "…" in lines[4]


def test_columns_stand_under_their_headings(small_study):
    head, units, rule, *rows = small_study.lines()[:6]
    assert set(rule) == {"-"}
    for name, unit in (("tokens/s", "measured"), ("TTFT", "ms"), ("KL", "nats")):
        assert head.index(name) + len(name) == units.index(unit) + len(unit)
    assert head.index("speed-up") == units.rindex("measured")
    assert rows[0].split()[:2] == ["baseline", "yes"] and rows[0].split()[7:9] == ["1.00", "2/2"]
    assert rows[2].split()[1] == "no"


def test_a_run_without_a_result_is_called_neither_a_number_nor_a_flip(compared):
    study = compared({"fails": [Failing()]}, prompts=PROMPTS[:1], repeats=1)
    text = "\n".join(study.lines()) + study.table(text=True).to_string(na_rep="")
    assert "nan" not in text.replace("the test gave NaN", "") and "near ties" not in text


def test_without_a_baseline_it_says_that_nothing_is_compared(compared):
    told = threading.Event()
    told.set()
    lines = "\n".join(compared({"lookup": [PromptLookup()]}, prompts=PROMPTS[:1], cancel=told).lines())
    assert "no run can be held against it" in lines and "One repeat" not in lines and "near ties" not in lines

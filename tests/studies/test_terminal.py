"""The table in a terminal."""

from studies.made_up import PROMPTS, Biased

from workbench.studies.terminal import WIDTH
from workbench.techniques import PromptLookup


def test_it_fits_whatever_the_names_and_cannot_steer_the_terminal(compared):
    names = {"n" * 200: [PromptLookup()], "\x1b[31mred\x07\nnew line": [Biased()]}
    lines = compared(names, prompts=PROMPTS[:1], repeats=1).lines()
    assert len(lines) == 7 and lines[-1] == "cache: with the question seen"
    assert max(map(len, lines)) <= WIDTH == 120
    assert all(line.isprintable() for line in lines)
    assert lines[4].startswith("nnnn") and "…" in lines[4]


def test_columns_stand_under_their_headings(small_study):
    head, units, rule, *rows = small_study.lines()
    assert set(rule) == {"-"}
    for name, unit in (("tokens/s", "measured"), ("speed-up", "measured, 95 %"), ("TTFT", "ms"), ("KL", "nats")):
        assert head.index(name) + len(name) == units.index(unit) + len(unit)
    assert rows[0].split()[:2] == ["baseline", "yes"] and "1.00 [1.00, 1.00]" in rows[0]
    assert rows[2].split()[1] == "no"

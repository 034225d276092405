import ast
import importlib.util
import os
import platform
from pathlib import Path

import pytest

from making import prompts as extract
from making import training_prompts as extract_training
from workbench.tasks import load_prompts, training_prompts
from workbench.tasks.needle import haystack


def needs_the_same_python(version):
    if platform.python_version_tuple()[:2] != tuple(version.split(".")[:2]):
        pytest.skip(f"the functions were taken from Python {version}; this is {platform.python_version()}")


def test_the_functions_are_really_in_the_standard_library():
    for prompt in load_prompts("code_completion"):
        needs_the_same_python(prompt.metadata["python"])
        source = Path(importlib.util.find_spec(prompt.metadata["module"]).origin).read_text(encoding="utf-8")
        assert prompt.prompt + prompt.reference in source
        [function] = ast.parse(prompt.prompt + prompt.reference).body
        assert function.name == prompt.metadata["function"]


def test_the_code_prompts_can_be_made_again():
    bundled = load_prompts("code_completion")
    needs_the_same_python(bundled[0].metadata["python"])
    made = extract.code_completion(Path("unused"))
    assert [(p.id, p.prompt, p.reference) for p in made] == [(p.id, p.prompt, p.reference) for p in bundled]


def test_every_bundled_file_can_be_made_again():
    sources = os.environ.get("WORKBENCH_PROMPT_SOURCES")
    if not sources:
        pytest.skip("WORKBENCH_PROMPT_SOURCES does not name the folder of unpacked Debian packages (see SOURCES.md)")
    for maker in extract.MAKERS:
        if maker is not extract.code_completion:
            assert maker(Path(sources)) == load_prompts(maker.__name__)
    assert tuple(extract.bible(Path(sources), extract.selections.HAYSTACK)) == haystack()
    needs_the_same_python(load_prompts("code_completion")[0].metadata["python"])
    for task, made in extract_training.make(Path(sources)).items():
        assert made == training_prompts(task)


@pytest.mark.parametrize(
    ("calculation", "value"),
    [("2 + 3 * 4", "14"), ("(1240 + 180 - 300) / 4", "280"), ("10 / 4", "5/2"), ("0.1 * 3", "3/10")],
)
def test_calculations_are_exact(calculation, value):
    assert str(extract.calculate(calculation)) == value


def test_a_calculation_holds_numbers_and_the_four_operations_only():
    for calculation in ("2 ** 9", "abs(1)", "a + 1"):
        with pytest.raises((KeyError, ValueError)):
            extract.calculate(calculation)


def test_a_function_is_cut_between_its_statements():
    start, rest = extract.standard_library_function("textwrap", "indent")
    assert start.startswith("def indent(") and start.endswith("\n")
    assert len(ast.parse(start + rest).body) == 1
    assert rest.rstrip().endswith("return ''.join(prefixed_lines())")


def test_errors_are_seeded_listed_and_leave_names_and_commands_alone():
    text = load_prompts("copy_editing")[0].reference + " Run apt-get install evolution-ews in GNOME 42, then stop."
    spoilt, errors = extract.introduce_errors(text, seed=1)
    assert (spoilt, errors) == extract.introduce_errors(text, seed=1)
    assert spoilt != extract.introduce_errors(text, seed=2)[0]
    assert len(errors) >= 5 and all(wrong != right for wrong, right in errors)
    assert len(spoilt.split("\n\n")) == len(text.split("\n\n"))
    for name in ("apt-get", "evolution-ews", "GNOME", "42,"):
        assert name in spoilt.split()


def test_paragraphs_of_the_handbook(tmp_path):
    page = tmp_path / extract.HANDBOOK / "en-US" / "sect.sample.html"
    page.parent.mkdir(parents=True)
    page.write_text(
        '<h2>Title</h2><div class="para">\n\t\tFirst &amp; <em>best</em>\n\t\tone.\n\t</div>'
        '<div class="sidebar"><div class="para">Second.</div></div>',
        encoding="utf-8",
    )
    assert extract.handbook(tmp_path, "sect.sample", [0, 1]) == "First & best one.\n\nSecond."


def test_blocks_of_the_documentation_lose_their_markup_and_keep_their_code(tmp_path):
    page = tmp_path / extract.DOCUMENTATION / "faq" / "sample.rst.txt"
    page.parent.mkdir(parents=True)
    page.write_text(
        "Other\n-----\n\nNot this.\n\n"
        "Why *so*?\n---------\n\n"
        "The :class:`float` type, :meth:`~list.append`, :func:`sorted(y) <sorted>`\n"
        "and ``x ** 2`` are *really* `linked <https://example.org>`_, see::\n\n"
        "   >>> if x:\n   ...     y\n\n"
        "   A quotation that is indented but goes on for as long as prose does,\n   over two lines.\n\n"
        "Next\n----\n\nNor this.\n",
        encoding="utf-8",
    )
    assert extract.documentation(tmp_path, "faq/sample", "Why *so*?", [0, 1, 2]) == (
        "The float type, list.append, sorted(y) and x ** 2 are really linked, see:\n\n"
        ">>> if x:\n...     y\n\n"
        "A quotation that is indented but goes on for as long as prose does, over two lines."
    )

import pytest
import sacrebleu

from workbench.errors import PromptError
from workbench.tasks import SCORERS, Prompt, load_prompts, score, scorer_for, scorers


def prompt(reference, task="chat", **metadata):
    return Prompt("a", "text", reference, task, metadata=metadata)


@pytest.mark.parametrize("task", sorted(SCORERS))
@pytest.mark.parametrize("answer", ["", "   ", "\n\n", "word", "<b>&é\U0001f600", "0 " * 300])
def test_every_score_is_a_float_between_zero_and_one(task, answer):
    value = score(answer, prompt("The quick brown fox.", task))
    assert isinstance(value, float) and 0 <= value <= 1


def test_every_bundled_reference_scores_one():
    for item in load_prompts("all"):
        assert score(item.reference, item) == pytest.approx(1.0), item.id


def test_a_wrong_answer_of_the_same_task_scores_below_the_right_one():
    for task in ("chat", "summarising", "code_completion", "copy_editing", "translation", "mathematics"):
        found = load_prompts(task)
        for item, other in zip(found, found[1:] + found[:1], strict=True):
            assert score(other.reference, item) < 0.8, item.id


def test_exact_match():
    assert scorers.exact_match(" two  words\n", prompt("two words")) == 1.0
    assert scorers.exact_match("Two words", prompt("two words")) == 0.0
    assert scorers.exact_match("2", prompt("two", answers=["2"])) == 1.0


@pytest.mark.parametrize(
    ("answer", "reference", "found"),
    [
        ("The number is 48213.", "48213", 1.0),
        ("The number is 148213.", "48213", 0.0),
        ("The number is 4821.", "48213", 0.0),
        ('"Telescope"<|im_end|>', "telescope", 1.0),
        ("telescopes", "telescope", 0.0),
        ("about\nten  years", "about ten years", 1.0),
        ("around 10% of them", "10%", 1.0),
        ("around 110% of them", "10%", 0.0),
        ("a.b", "a+b", 0.0),
        ("anything", " ", 0.0),
    ],
)
def test_contains(answer, reference, found):
    assert scorers.contains(answer, prompt(reference)) == found


def test_contains_takes_any_accepted_answer():
    asked = prompt("weekly", answers=["every week", ""])
    assert scorers.contains("Every week.", asked) == 1.0
    assert scorers.contains("Every day.", asked) == 0.0


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("16 eggs are left, so she earns $6.", "6", 1.0),
        ("She earns 6 dollars for 16 eggs.", "6", 0.0),  # the last number counts
        ("The answer is 1,120.", "1120", 1.0),
        ("= 46.80 euros", "46.8", 1.0),
        ("**12.5** hours", "12.5", 1.0),
        ("12.50", "12.5", 1.0),
        ("12", "12.5", 0.0),
        ("so x = -3", "-3", 1.0),
        ("so x = -3", "3", 0.0),
        ("20-3", "3", 1.0),
        ("\\boxed{42}", "42", 1.0),
        ("in 1,2 and 3", "3", 1.0),
        ("forty-two", "42", 0.0),
        ("half of 10 plus 2 ... #### 7", "5 + 2 #### 7", 1.0),
        ("7", "no number", 0.0),
    ],
)
def test_number(answer, reference, right):
    assert scorers.number(answer, prompt(reference)) == right


def test_translation_scores_are_those_of_sacrebleu():
    item = load_prompts("translation")[0]
    answer = item.reference.replace("computers", "machines")
    assert scorers.chrf(answer, item) == pytest.approx(
        sacrebleu.CHRF().sentence_score(answer, [item.reference]).score / 100
    )
    bleu = sacrebleu.BLEU(effective_order=True).sentence_score(answer, [item.reference]).score / 100
    assert scorers.bleu(answer, item) == pytest.approx(bleu)
    assert 0.5 < scorers.bleu(answer, item) < scorers.chrf(answer, item) < 1


def test_edit_similarity_is_twice_the_matches_over_the_lengths():
    # "abcd" and "abxd" share a, b and d.
    assert scorers.edit_similarity("abcd", prompt("abxd")) == pytest.approx(2 * 3 / 8)
    # Long texts have frequent letters, which difflib would ignore unless told not to.
    text = "ab" * 400
    assert scorers.edit_similarity(text + "c", prompt(text)) == pytest.approx(1600 / 1601)


def test_copy_editing_rewards_correction():
    for item in load_prompts("copy_editing"):
        untouched = score(item.prompt.split("\n\n", 1)[1], item)
        assert 0.9 < untouched < 1


def test_code_is_compared_up_to_the_end_of_the_function():
    wanted = prompt("    total = 0\n\n    return total\n", "code_completion")
    assert score("    total = 0\n\n    return total\n\n\ndef other():\n    pass\n", wanted) == 1.0
    assert score("    total = 0  \n\n    return total", wanted) == 1.0
    assert score("total = 0\n\n    return total", wanted) < 1.0
    assert score("\nprint('outside')\n", wanted) < 0.3


def test_without_a_reference_there_is_no_score():
    for scorer in {*SCORERS.values(), scorers.exact_match, scorers.bleu}:
        with pytest.raises(PromptError, match="'a' has no reference"):
            scorer("answer", Prompt("a", "text"))


def test_an_unknown_task_is_scored_by_rouge():
    assert scorer_for("my own") is scorers.rouge_l
    assert score("one two", prompt("one two three four", "my own")) == pytest.approx(2 * 1 * 0.5 / 1.5)


@pytest.mark.parametrize("task", sorted(SCORERS))
def test_the_nearest_of_several_references_counts(task):
    answer = "    return 12 boats\n"
    far, near = Prompt("a", "x", "77 hills", task), Prompt("a", "x", answer, task)
    both = Prompt("a", "x", "77 hills", task, metadata={"answers": ["one more", answer]})
    assert score(answer, both) == score(answer, near) > score(answer, far)
    assert score(answer, both) == pytest.approx(1.0)
    assert score(answer, Prompt("a", "x", "77 hills", task, metadata={"answers": [3, None, ""]})) == score(answer, far)


def test_bleu_counts_the_n_grams_of_all_references():
    halves = ["the boat lies in the harbour", "a mill was built by the river"]
    prompt = Prompt("a", "x", halves[0], "translation", metadata={"answers": halves[1:]})
    said = "the boat lies in the harbour a mill was built by the river"
    assert scorers.bleu(said, prompt) > max(
        scorers.bleu(said, Prompt("a", "x", half, "translation")) for half in halves
    )

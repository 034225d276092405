import numpy
import pytest

from workbench.metrics.text import exact_match, first_divergence, rouge_l, rouge_l_tokens


@pytest.mark.parametrize(
    ("a", "b", "position"),
    [
        ([1, 2, 3], [1, 2, 3], -1),
        ([], [], -1),
        ([1, 2, 3], [9, 2, 3], 0),
        ([1, 2, 3], [1, 2, 9], 2),
        ([1, 2], [1, 2, 3], 2),
        ([1, 2, 3], [1, 2], 2),
        ([], [5], 0),
        ([5], [], 0),
        ((1, 2), [1, 2], -1),
        ("word", "wort", 3),
    ],
)
def test_first_divergence(a, b, position):
    assert first_divergence(a, b) == position
    assert exact_match(a, b) is (position == -1)


def test_a_token_that_is_zero_or_none_is_still_a_token():
    assert first_divergence([0], []) == 0
    assert first_divergence([1, None], [1]) == 1


def test_arrays_compare_like_lists():
    position = first_divergence(numpy.array([4, 5, 6]), [4, 5, 7])
    assert position == 2 and isinstance(position, int)


def longest_common_subsequence(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_rouge_l_is_the_formula_of_the_paper():
    # Words that a stemmer leaves alone.
    candidate = "the cat sat on a red mat by the door"
    reference = "the red cat sat by the door on a mat"
    common = longest_common_subsequence(candidate.split(), reference.split())
    precision, recall = common / len(candidate.split()), common / len(reference.split())
    assert rouge_l(candidate, reference) == pytest.approx(2 * precision * recall / (precision + recall))
    assert 0 < rouge_l(candidate, reference) < 1


def test_rouge_l_at_its_edges():
    assert rouge_l("same words", "same words") == 1.0
    assert rouge_l("", "") == 1.0
    assert rouge_l("", "words") == 0.0
    assert rouge_l("words", "") == 0.0
    assert rouge_l("alpha beta", "gamma delta") == 0.0
    assert rouge_l("слова", "слова") == 1.0
    assert rouge_l("слова и", "слова") == 0.0


@pytest.mark.parametrize("seed", range(6))
def test_rouge_l_of_tokens_is_the_formula(seed):
    random = numpy.random.default_rng(seed)
    candidate, reference = (random.integers(0, 5, random.integers(1, 30)).tolist() for _ in range(2))
    common = longest_common_subsequence(candidate, reference)
    precision, recall = common / len(candidate), common / len(reference)
    wanted = 2 * precision * recall / (precision + recall) if common else 0.0
    assert rouge_l_tokens(candidate, reference) == pytest.approx(wanted)
    assert rouge_l_tokens(candidate, reference) == rouge_l_tokens(reference, candidate)


def test_rouge_l_of_tokens_is_the_librarys_where_tokens_are_words():
    """As the paper scores code: ids written as words."""
    random = numpy.random.default_rng(1)
    for _ in range(5):
        one, other = (random.integers(0, 6, 12).tolist() for _ in range(2))
        found = rouge_l(" ".join(map(str, one)), " ".join(map(str, other)))
        assert rouge_l_tokens(one, other) == pytest.approx(found)


def test_rouge_l_of_tokens_at_its_edges():
    assert rouge_l_tokens([], []) == 1.0
    assert rouge_l_tokens([], [0]) == rouge_l_tokens([0], []) == rouge_l_tokens([1], [0]) == 0.0
    assert rouge_l_tokens((7, 8), [7, 8]) == 1.0

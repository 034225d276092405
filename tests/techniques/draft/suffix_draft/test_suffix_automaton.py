"""The automaton against a plain search through the text."""

import random

import pytest

from workbench.techniques.draft.suffix_draft.suffix_automaton import SuffixAutomaton


def longest_repeated_suffix(text):
    """Length of the longest suffix that ends somewhere earlier too, and the places where it does."""
    for length in range(len(text) - 1, 0, -1):
        suffix = text[-length:]
        ends = [end for end in range(length, len(text)) if text[end - length : end] == suffix]
        if ends:
            return length, ends
    return 0, []


@pytest.mark.parametrize("alphabet", [1, 2, 3, 20])
@pytest.mark.parametrize("seed", range(4))
def test_the_repeated_suffix_is_the_longest_and_its_place_is_right(alphabet, seed):
    chance, text, automaton = random.Random(seed), [], SuffixAutomaton()
    for _ in range(120):
        token = chance.randrange(alphabet)
        text.append(token)
        automaton.append(token)
        length, ends = longest_repeated_suffix(text)
        matched, place = automaton.repeated
        assert matched == length
        assert not length or place in ends


@pytest.mark.parametrize("seed", range(4))
def test_the_latest_occurrence_is_taken_where_suffixes_are_few(seed):
    chance = random.Random(seed)
    text = [chance.randrange(6) for _ in range(150)]
    automaton = SuffixAutomaton(text)
    length, ends = longest_repeated_suffix(text)
    assert automaton.repeated == (length, max(ends))


@pytest.mark.parametrize("seed", range(4))
def test_another_texts_suffix_is_followed_through(seed):
    chance = random.Random(seed)
    corpus = [chance.randrange(4) for _ in range(80)]
    automaton, state, query = SuffixAutomaton(corpus), (0, 0), []
    for _ in range(80):
        query.append(chance.randrange(5))
        state = automaton.advance(*state, query[-1])
        best = 0
        for length in range(1, len(query) + 1):
            ends = [end for end in range(length, len(corpus) + 1) if corpus[end - length : end] == query[-length:]]
            if not ends:
                break
            best = length
        assert state[1] == best
        if best:
            end = automaton.ended(state[0])
            assert corpus[end - best : end] == query[-best:]


def test_a_text_of_one_token_does_not_take_quadratic_time():
    automaton = SuffixAutomaton([7] * 20_000)
    assert automaton.repeated[0] == 19_999

"""A few views are kept, each made once, and no longer than what they are views of."""

import gc
import weakref

from workbench.models.views import Views


class Anatomy:
    pass


def test_a_view_is_made_once_and_the_one_asked_for_longest_ago_goes():
    views, anatomy, made = Views(2), Anatomy(), []

    def view(key):
        return views.of(anatomy, key, lambda: made.append(key) or Anatomy())

    first = view("a")
    assert view("b") is not first and view("a") is first and made == ["a", "b"]
    view("c")
    assert view("a") is first and made == ["a", "b", "c"]
    view("b")
    assert made == ["a", "b", "c", "b"]


def test_two_anatomies_have_views_of_their_own_which_go_with_them():
    views, one, other = Views(), Anatomy(), Anatomy()
    seen = weakref.ref(views.of(one, 1, Anatomy))
    assert views.of(other, 1, Anatomy) is not seen()
    del one
    gc.collect()
    assert seen() is None

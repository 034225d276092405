"""Views of an anatomy that are asked for again and again, each made once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from workbench.models.anatomy import Anatomy


class Views:
    """Keeps a few views of every anatomy, for as long as that is there: the same object every time, as much is laid out
    for one when it is first used.

    Parameters
    ----------
    most : int
        Views of one anatomy, beyond which that goes which was asked for longest ago.
    """

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._known: WeakKeyDictionary[Anatomy, dict[Hashable, Anatomy]] = WeakKeyDictionary()

    def of(self, anatomy: Anatomy, key: Hashable, make: Callable[[], Anatomy]) -> Anatomy:
        """The view of an anatomy that ``key`` names, which must say all that ``make`` makes it from."""
        views = self._known.setdefault(anatomy, {})
        view = views.pop(key, None)
        if view is None:
            while len(views) >= self._most:
                del views[next(iter(views))]
            view = make()
        views[key] = view
        return view

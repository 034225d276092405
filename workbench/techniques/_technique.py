"""What every technique is: a frozen dataclass of settings that fills slots of the decode loop."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Self

from workbench.engine.run import Run
from workbench.registry import TECHNIQUES
from workbench.settings import Class, build


def register(cls: Class) -> Class:
    """Decorator that files a technique under its name, see :meth:`workbench.registry.Registry.register`."""
    TECHNIQUES.register(cls)
    return cls


class Technique(abc.ABC):
    """Base of every technique.

    Attributes
    ----------
    slots : tuple of str
        Slots it claims, of :data:`workbench.engine.SLOTS`.
    exact : bool
        Whether greedy output in float32 equals the baseline's token for token, and sampled output its distribution.
    stepwise : bool
        Whether it acts between tokens, so that teacher forcing must feed tokens one by one.
    excludes : tuple of str
        Names of techniques it does not go together with.
    segments : bool
        Whether a technique of the slots ``draft``, ``logits`` or ``switch`` reads prompts of which some rows have no
        token but a placeholder, a negative id of its own (:mod:`workbench.models.segments`); others always do.
    paper : str
        Authors, title, year, arXiv id.
    name : str
        Name in the registry, the class name in snake case.
    """

    slots: ClassVar[tuple[str, ...]]
    exact: ClassVar[bool]
    stepwise: ClassVar[bool] = False
    excludes: ClassVar[tuple[str, ...]] = ()
    segments: ClassVar[bool] = False
    paper: ClassVar[str]
    name: ClassVar[str]

    @abc.abstractmethod
    def start(self, run: Run) -> Any:
        """The policy of one run: an object with the methods of the claimed slots (see
        :mod:`workbench.engine.slots`). It may hold state; the technique itself may not.

        Raises
        ------
        SettingError
            If the settings do not fit the model.
        """

    @classmethod
    @abc.abstractmethod
    def neutral(cls) -> Self:
        """The setting at which it must equal the baseline, logits and all."""

    @classmethod
    def examples(cls) -> tuple[Self, ...]:
        """Settings that tests run over; they suit the tiny models."""
        return (cls(),)

    @classmethod
    def smallest(cls) -> Self:
        """A setting with few outcomes, to walk through all of them where it is sampled: drafts of two levels and few
        nodes, if it drafts by chance."""
        return cls.examples()[0]

    @classmethod
    def build(cls, **values: Any) -> Self:
        """An instance from values that may be strings, as a shell or a page gives them.

        Raises
        ------
        SettingError
            Naming the setting, what was wrong and what is allowed.
        """
        return build(cls, values)

"""What the routers of :mod:`workbench.training.layer_router` learn from one text: choices that a search found, and what
the routers read on the way that these choices make."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from workbench.files import is_there, write_atomically
from workbench.models import Model, fingerprint
from workbench.models.bundled import cache_folder
from workbench.parts.layer_router import RUN, SKIP, FixedChoices, windows_of
from workbench.training.layer_search import Choices, search, shortest

if TYPE_CHECKING:
    from workbench.engine.passes import Pass

_HELD = 512  # streams of a text

_KNOWN: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()


class Text(NamedTuple):
    """Token ids of a prompt and of the answer's first tokens."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Route(NamedTuple):
    """Choices int64 [layers]; means of windows [layers, windows, width] before every layer, of the prompt alone; how
    much likelier an answer's token is at full depth [nats]."""

    choices: Tensor
    pooled: Tensor
    lost: float


@dataclass(frozen=True)
class Searching:
    """How routes are found; the settings of :class:`workbench.training.LayerRouter`."""

    windows: int
    simulations: int
    exploration: float
    penalty: float
    budget: float
    tolerance: float
    keep: bool

    def route(self, model: Model, text: Text) -> Route:
        """Of one text, searched for when it is first asked for."""
        known = _KNOWN.setdefault(model.anatomy, {})
        key = self, text
        if key not in known:
            losses = self._losses(model, text)
            choices = shortest(losses, self.tolerance)
            lost = losses[choices] - losses[(RUN,) * model.layers]
            known[key] = Route(torch.tensor(choices), pooled_of(model, text.prompt, choices, self.windows), lost)
        return known[key]

    def _losses(self, model: Model, text: Text) -> dict[Choices, float]:
        """Of the search, from a file where one has found it before."""
        how = {"simulations": self.simulations, "exploration": self.exploration, "penalty": self.penalty,
               "budget": self.budget}  # fmt: skip
        file = self._file(model, text, how) if self.keep else None
        if file is not None and is_there(file):
            return {tuple(choices): loss for choices, loss in json.loads(file.read_text("utf-8"))}
        losses = search(Losses(model, text), model.layers, **how)
        if file is not None:
            write_atomically(file, json.dumps([[list(choices), loss] for choices, loss in losses.items()]))
        return losses

    def _file(self, model: Model, text: Text, how: dict[str, float]) -> Path:
        named = json.dumps([fingerprint.of_model(model), str(model.dtype), text, how])
        return cache_folder() / "layer_router" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"


def texts_of(tokens: Tensor, answer: Tensor, most_prompt: int, most_answer: int) -> Iterator[Text]:
    """The texts of a batch, cut to the end of the prompt and the beginning of the answer; of one that begins with an
    answer, the first token is the prompt."""
    for ids, own in zip(tokens.tolist(), answer):
        places = own.nonzero()[:, 0].tolist()
        first, last = max(1, places[0]), max(1, places[-1])
        yield Text(tuple(ids[max(0, first - most_prompt) : first]), tuple(ids[first : last + 1][:most_answer]))


class Losses:
    """Mean cross-entropy [nats] of an answer's tokens, each after the ones before it, by configuration.

    Parameters
    ----------
    model : Model
    text : Text

    Notes
    -----
    A configuration goes on from where it parts from one that was run before, as far as streams are held.
    """

    def __init__(self, model: Model, text: Text) -> None:
        self._model, self._text = model, text
        self._streams: dict[Choices, Tensor] = {}

    @torch.inference_mode()
    def __call__(self, choices: Choices) -> float:
        ids, first = [*self._text.prompt, *self._text.answer], len(self._text.prompt)
        shared = next((n for n in range(len(choices) - 1, 0, -1) if choices[:n] in self._streams), 0)
        policy = _Reading(choices, lambda layer, x: self._hold(choices[:layer], x), shared)
        with _opened(self._model, ids, policy, self._streams.get(choices[:shared])) as opened:
            opened.run()
            said = opened.unembed(range(first - 1, len(ids) - 1)).float().log_softmax(-1)
        own = torch.tensor(self._text.answer, device=said.device)
        return -float(said.gather(1, own[:, None]).mean())

    def _hold(self, way: Choices, x: Tensor) -> None:
        self._streams[way] = x
        if len(self._streams) > _HELD:
            self._streams.pop(next(iter(self._streams)))


@torch.no_grad()
def pooled_of(model: Model, prompt: tuple[int, ...], choices: Choices, windows: int) -> Tensor:
    """What the routers read of a prompt, had they chosen so: [layers, windows, width], in the model's dtype."""
    read: list[Tensor] = []
    with _opened(model, prompt, _Reading(choices, lambda _, x: read.append(windows_of(x, windows)))) as opened:
        opened.run()
    # Not of the pass's inference mode, as gradients come of it.
    return torch.stack(read).to(model.dtype)


def _opened(model: Model, ids: list[int] | tuple[int, ...], policy: FixedChoices, inputs: Tensor | None = None) -> Pass:
    from workbench.engine.decoder import Decoder  # here, as no other recipe needs the engine

    return Decoder(model, policies={"depth": policy}).open(ids, inputs=inputs, prompt=True)


class _Reading(FixedChoices):
    """Shows the stream [tokens, width] before every layer, skipped ones too; those before ``first`` have run."""

    def __init__(self, choices: Choices, see: Callable[[int, Tensor], None], first: int = 0) -> None:
        super().__init__(choices)
        self._due, self._see, self.choices = choices, see, [SKIP] * first

    def choose(self, layer: int, x: Tensor) -> int:
        self._see(layer, x)
        return self._due[layer]

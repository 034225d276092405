"""The matrix that ships, a file per technique, and which of its verdicts are of code that has changed since.

A technique's file holds its verdicts under all conditions and with the techniques whose names sort before its own; two
for one slot are excluded by arithmetic, and not stored. Beside them stand hashes of what they are verdicts on: its own
code, the other's, and the engine (:mod:`workbench.studies.code_files`). Where one differs, a verdict is stale.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import xarray as xr

from workbench.engine.slots import SLOTS
from workbench.errors import TraceError
from workbench.files import write_atomically
from workbench.models import Model
from workbench.registry import TECHNIQUES
from workbench.studies import code_files
from workbench.studies.compatibility import CONDITIONS, STATUSES, Progress, about, described, judge, matrix, one_slot
from workbench.studies.compatibility_trial import Trial, Verdict, model_of

FOLDER = "compatibility"
_OF_MODEL = ("model", "revision", "dtype", "device")
_DESCRIBED = ("name", "slots", "exact", "example")


@dataclass(frozen=True)
class Shard:
    """What is known of one technique.

    Attributes
    ----------
    technique : dict
        As :func:`workbench.studies.compatibility.described` gives it.
    about : dict
        As :func:`workbench.studies.compatibility.about` gives it.
    code, engine : str
        Hashes of the technique's code and of the engine.
    conditions : dict
        Condition -> status and reason.
    pairs : dict
        Name of a technique that sorts before -> status and reason.
    others : dict
        The same names -> hash of that technique's code.
    """

    technique: dict[str, Any]
    about: dict[str, Any]
    code: str
    engine: str
    conditions: dict[str, Verdict]
    pairs: dict[str, Verdict]
    others: dict[str, str]

    def to_json(self) -> str:
        """JSON with a line for every technique that it was run with."""
        reasons = {name: reason for name, (_, reason) in {**self.conditions, **self.pairs}.items() if reason}
        head = {**self.technique, **self.about, "code": self.code, "engine": self.engine}
        head |= {"conditions": {name: status for name, (status, _) in self.conditions.items()}, "reasons": reasons}
        lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
        pairs = [f'  "{name}": {json.dumps([self.pairs[name][0], self.others[name]])}' for name in sorted(self.pairs)]
        lines.append('"pairs": {\n' + ",\n".join(pairs) + "\n}" if pairs else '"pairs": {}')
        return "{\n" + ",\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Shard:
        """The shard of a file.

        Raises
        ------
        TraceError
            If it is none.
        """
        try:
            stored = json.loads(text)
            reasons = stored["reasons"]
            conditions = {name: (status, reasons.get(name, "")) for name, status in stored["conditions"].items()}
            pairs = {name: (status, reasons.get(name, "")) for name, (status, _) in stored["pairs"].items()}
            others = {name: code for name, (_, code) in stored["pairs"].items()}
            technique, about = ({key: stored[key] for key in keys} for keys in (_DESCRIBED, (*_OF_MODEL, "versions")))
            shard = cls(technique, about, stored["code"], stored["engine"], conditions, pairs, others)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TraceError(f"this is no file of verdicts on a technique: {error!r}") from error
        unknown = {status for status, _ in (*shard.conditions.values(), *shard.pairs.values())} - set(STATUSES)
        if unknown or set(shard.conditions) != set(CONDITIONS):
            raise TraceError(f"the verdicts on {shard.technique['name']} are not whole, or of no status: {unknown}")
        return shard


def shards(folder: str | Path | Traversable | None = None) -> dict[str, Shard]:
    """Name -> what a folder knows of a technique; that of the package if it is left out.

    Raises
    ------
    TraceError
        If a file is damaged, or is not of the technique it is named after.
    """
    place = files("workbench_data").joinpath(FOLDER) if folder is None else folder
    place = Path(place) if isinstance(place, str) else place
    by_name = {}
    for file in sorted(place.iterdir(), key=lambda file: file.name) if place.is_dir() else ():
        if file.name.endswith(".json") and not file.name.startswith("."):
            shard = Shard.from_json(file.read_text("utf-8"))
            by_name[shard.technique["name"]] = shard
            if file.name != f"{shard.technique['name']}.json":
                raise TraceError(f"{file.name} holds the verdicts on {shard.technique['name']}")
    return by_name


def merged(known: Mapping[str, Shard]) -> xr.DataTree:
    """The matrix of some shards, techniques in the order of the slots that they claim first.

    Raises
    ------
    TraceError
        If there are none, a pair is missing, or they are of different models.
    """
    if not known:
        raise TraceError("there is no matrix: make it with workbench compatibility --out FOLDER")
    of = {json.dumps([shard.about[key] for key in _OF_MODEL]) for shard in known.values()}
    if len(of) > 1:
        raise TraceError(f"these verdicts are of different models: {' and '.join(sorted(of))}")
    first = next(iter(known.values())).about
    versions: dict[str, set[str]] = {}
    for shard in known.values():
        for name, version in shard.about["versions"].items():
            versions.setdefault(name, set()).add(version)
    facts = {**first, "versions": {name: " and ".join(sorted(each)) for name, each in versions.items()}}
    order = {slot: place for place, slot in enumerate(SLOTS)}

    def place(technique: dict[str, Any]) -> tuple[int, str]:
        return order.get(technique["slots"][0], len(order)), technique["name"]

    listed = sorted((shard.technique for shard in known.values()), key=place)
    verdicts = {(name, key): verdict for name, shard in known.items() for key, verdict in shard.conditions.items()}
    verdicts |= {(other, name): verdict for name, shard in known.items() for other, verdict in shard.pairs.items()}
    return matrix(facts, listed, verdicts)


def shipped() -> xr.DataTree:
    """The matrix that came with the package: made by ``workbench compatibility`` on a tiny model.

    Raises
    ------
    TraceError
        If it is missing or damaged.
    """
    return merged(shards())


def fresh(known: Mapping[str, Shard], model: Model) -> dict[tuple[str, str], Verdict]:
    """The verdicts of shards that are of today's code and of a model, as ``known`` of
    :func:`workbench.studies.compatibility.compatibility`: a pair is there both ways round. What failed is run again,
    as it may have been for want of memory."""
    codes, facts, verdicts = _codes(), about(model), {}
    for name, shard in known.items():
        same = all(shard.about[key] == facts[key] for key in _OF_MODEL)
        if same and shard.code == codes.get(name) and shard.engine == code_files.of_engine():
            verdicts |= {(name, condition): verdict for condition, verdict in shard.conditions.items()}
            today = [other for other in shard.pairs if shard.others[other] == codes.get(other)]
            verdicts |= {pair: shard.pairs[other] for other in today for pair in ((other, name), (name, other))}
    return {key: verdict for key, verdict in verdicts.items() if verdict[0] != "fails"}


def stale(known: Mapping[str, Shard], model: Model) -> list[tuple[str, str]]:
    """Techniques with conditions, and pairs of techniques, that have no verdict of today's code."""
    verdicts, names = fresh(known, model), sorted(TECHNIQUES)
    due = [*itertools.product(names, CONDITIONS), *((one, name) for name in names for one in _partners(name))]
    return [key for key in due if key not in verdicts]


def refresh(
    folder: str | Path, model: Model | str = "tiny", progress: Progress | None = None, anew: bool = False
) -> dict[str, Shard]:
    """Run what is stale, and bring a folder up to date: each file when its technique is done, so that a run that is
    broken off loses little. Files of techniques that are no longer registered go.

    Parameters
    ----------
    folder : path
        Made if it is missing; what the package knows is then the beginning.
    model : Model or str
    progress : callable, optional
        See :func:`workbench.studies.compatibility.compatibility`.
    anew : bool
        Whether to run everything.

    Returns
    -------
    dict of str to Shard
    """
    folder, trial = Path(folder), Trial(model_of(model) if isinstance(model, str) else model)
    stored = shards(folder) or shards()
    known = {} if anew else fresh(stored, trial.model)
    codes, facts, written = _codes(), about(trial.model), {}
    for name, verdicts in judge(trial, sorted(TECHNIQUES), progress, known):
        pairs = {other: verdicts[other, name] for other in _partners(name)}
        conditions = {condition: verdicts[name, condition] for condition in CONDITIONS}
        # Where nothing was run the versions are those that it was run with, and the file stays as it is.
        ran = [key for key in [*((name, each) for each in conditions), *((each, name) for each in pairs)]
               if key not in known]  # fmt: skip
        by = facts if ran or name not in stored else stored[name].about
        others = {other: codes[other] for other in pairs}
        written[name] = Shard(described(name), by, codes[name], code_files.of_engine(), conditions, pairs, others)
        write_atomically(folder / f"{name}.json", written[name].to_json())
    for name in set(stored) - set(written):
        (folder / f"{name}.json").unlink(missing_ok=True)
    return written


def _codes() -> dict[str, str]:
    return {name: code_files.of_technique(kind) for name, kind in TECHNIQUES.items()}


def _partners(name: str) -> list[str]:
    """Registered techniques that sort before one and share no slot with it that holds one."""
    kind = described(name)
    return [other for other in sorted(TECHNIQUES) if other < name and one_slot(described(other), kind) is None]

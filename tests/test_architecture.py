"""The house rules that a machine can hold: what is where, what is registered, what is tested and what is documented."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from workbench.registry import PROBES, TECHNIQUES, snake_case

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "workbench": ROOT / "workbench",
    "workbench_app": ROOT / "app" / "workbench_app",
    "workbench_kernels": ROOT / "kernels" / "workbench_kernels",
    "workbench_data": ROOT / "data" / "workbench_data",
}
SKIPPED_FOLDERS = {".git", ".venv", "build", "dist", "reports", "runs", "__pycache__", ".ipynb_checkpoints"}
LONGEST = 300  # lines
WRITE = "run: .venv/bin/python tests/test_architecture.py"


def sources():
    """Every Python file of the project, as paths from its root."""
    files = (file.relative_to(ROOT) for file in ROOT.rglob("*.py"))
    return sorted(file for file in files if not SKIPPED_FOLDERS & set(file.parts) and not file.parts[0].startswith("."))


def modules():
    """Every module of the packages, by its import name."""
    found = []
    for package, folder in PACKAGES.items():
        for file in sorted(folder.rglob("*.py")):
            parts = (package, *file.relative_to(folder).with_suffix("").parts)
            found.append(".".join(parts).removesuffix(".__init__"))
    return found


def modules_of(kind):
    """The modules of techniques or of probes, by the file or the folder that is one: what begins with _ is none.

    A technique is a file of its slot's folder, or a folder there whose ``__init__`` holds the class.
    """
    folders = [ROOT / "workbench" / kind]
    if kind == "techniques":
        folders = [folder for folder in folders[0].iterdir() if folder.is_dir() and folder.name != "__pycache__"]
    entries = [entry for folder in folders for entry in folder.iterdir()]
    return sorted(
        entry.with_suffix("")
        for entry in entries
        if not entry.name.startswith("_") and (entry.suffix == ".py" or entry.is_dir())
    )


def files_of(module):
    """The Python files of a technique or a probe."""
    return sorted(module.rglob("*.py")) if module.is_dir() else [module.with_suffix(".py")]


def registered():
    """Import the techniques and probes; return their registries by the name of their folder."""
    importlib.import_module("workbench.techniques")
    importlib.import_module("workbench.probes")
    return {"techniques": TECHNIQUES, "probes": PROBES}


# What is where


def test_packages_are_there():
    for folder in PACKAGES.values():
        assert (folder / "__init__.py").is_file(), f"{folder} has no __init__.py"
    for shadow in ("kernels", "app", "data"):  # a package named kernels would hide a library that transformers imports
        assert not (ROOT / shadow / "__init__.py").exists()


@pytest.mark.parametrize("name", modules())
def test_every_module_imports(name):
    importlib.import_module(name)


@pytest.mark.parametrize("file", sources(), ids=str)
def test_a_file_is_short_or_says_why_not(file):
    text = (ROOT / file).read_text("utf-8")
    if len(text.splitlines()) > LONGEST and file.parts[0] != "tests":
        assert "length" in (ast.get_docstring(ast.parse(text)) or "").lower(), (
            f"{file} has more than {LONGEST} lines: split it, or argue its length in its head"
        )


def test_the_registry_stays_small():
    assert len((ROOT / "workbench" / "registry.py").read_text().splitlines()) <= 50


def test_importing_the_library_runs_nothing_and_loads_no_torch():
    code = "import sys, workbench; assert not {'torch', 'transformers', 'altair', 'gradio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Techniques and probes


@pytest.mark.parametrize("kind", ["techniques", "probes"])
def test_every_file_registers_one_class_and_every_class_has_a_file(kind):
    homes = {}
    for cls in registered()[kind].values():
        homes.setdefault(cls.__module__, []).append(cls.__name__)
    prefix = f"workbench.{kind}."
    homes = {module: names for module, names in homes.items() if module.startswith(prefix)}
    assert sorted(homes) == sorted(".".join(module.relative_to(ROOT).parts) for module in modules_of(kind))
    for module, names in homes.items():
        assert len(names) == 1, f"{module} registers {names}"
        assert module.rpartition(".")[2] == snake_case(names[0]), f"{module} holds {names[0]}"


@pytest.mark.parametrize("kind", ["techniques", "probes"])
def test_every_technique_and_probe_is_tested_documented_and_public(kind):
    public = importlib.import_module(f"workbench.{kind}")
    for module in modules_of(kind):
        test = ROOT / "tests" / module.relative_to(ROOT / "workbench").with_name(f"test_{module.name}.py")
        assert test.is_file(), f"{module.name} has no {test.relative_to(ROOT)}"
        tree = ast.parse(test.read_text("utf-8"))
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert any(name.startswith("test_") for name in names), f"{test.name} tests nothing"
    for name, cls in registered()[kind].items():
        assert re.search(r"\b(19|20)\d\d\b", cls.paper), f"{name}: its paper has no year"
        assert getattr(public, cls.__name__) is cls, f"{name} is not among the public names"
        head = importlib.import_module(cls.__module__).__doc__ or ""
        assert "Paper" in head, f"{name}: no Paper in its head"
        assert "\nFormula\n-------\n" in head or kind == "probes", f"{name}: no Formula in its head: what it computes"


def test_the_folder_of_a_technique_is_its_first_slot():
    for name, cls in registered()["techniques"].items():
        if cls.__module__.startswith("workbench."):
            assert cls.__module__.split(".")[2] == cls.slots[0], f"{name} fills {cls.slots[0]} and is {cls.__module__}"


def imported(file, types=True):
    """The names that a file imports, with their modules; relative ones begin with a point. Without ``types`` those are
    left out that only a type checker reads."""
    tree = ast.parse(file.read_text("utf-8"))
    unread = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    left_out = {each for node in unread for line in node.body for each in ast.walk(line)} if not types else ()
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


LAZY = "workbench"
"""The package's own ``__init__`` names modules that are imported when somebody asks: its imports make no circle."""


def import_graph():
    """Every module of the packages with those that it imports when it runs, at its head or inside its functions."""
    known = set(modules())
    graph = {}
    for package, folder in PACKAGES.items():
        for file in sorted(folder.rglob("*.py")):
            home = ".".join((package, *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
            names = {name if name in known else name.rpartition(".")[0] for name in imported(file, types=False)}
            graph[home] = (names & known) - {home} if home != LAZY else set()
    return graph


def circle(graph):
    """Modules that import one another in a circle, in order; empty where there are none."""
    done = set()
    for start in graph:
        path, waiting = [], [(start, iter(sorted(graph[start])))]
        while waiting:
            home, others = waiting[-1]
            path = [each for each, _ in waiting]
            other = next((each for each in others if each not in done), None)
            if other is None:
                done.add(home)
                waiting.pop()
            elif other in path:
                return [*path[path.index(other) :], other]
            else:
                waiting.append((other, iter(sorted(graph[other]))))
    return []


def test_no_modules_import_one_another():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert not circle(import_graph())


def test_techniques_import_neither_one_another_nor_probes():
    for module in modules_of("techniques"):
        home = ".".join(module.relative_to(ROOT).parts)
        shared = ("workbench.techniques._", f"{home.rpartition('.')[0]}._", f"{home}.")
        for file in files_of(module):
            for name in imported(file):
                refused = re.match(r"\.|workbench\.(techniques|probes)\b", name)
                assert name.startswith(shared) or not refused, f"{file.relative_to(ROOT)} imports {name}"


def test_what_a_slot_shares_serves_that_slot_alone():
    for folder in (ROOT / "workbench" / "techniques").iterdir():
        for file in folder.glob("_[!_]*.py"):
            for name in imported(file):
                shared = ("workbench.techniques._", f"workbench.techniques.{folder.name}._")
                refused = re.match(r"\.|workbench\.(techniques|probes)\b", name)
                assert name.startswith(shared) or not refused, f"{file.relative_to(ROOT)} imports {name}"


def technique_table():
    """The README's table as the registry says it."""
    registered()
    return importlib.import_module("workbench.listing").markdown()


def between(name, text):
    """What stands between two marks of the README."""
    found = re.search(rf"(?s)<!-- {name} -->\n(.*?)\n<!-- /{name} -->", text)
    assert found, f"README.md has no <!-- {name} --> … <!-- /{name} -->"
    return found[1].strip()


def test_the_readme_lists_the_techniques_of_the_registry():
    assert between("techniques", (ROOT / "README.md").read_text("utf-8")) == technique_table(), WRITE


def compatibility_lines():
    """The README's word on what goes together, and the page that it points to."""
    from workbench.studies.compatibility_file import markdown, summary
    from workbench.studies.compatibility_shards import shipped

    tree = shipped()
    page = "data/workbench_data/compatibility.md"
    said = f"{summary(tree)} [The matrix]({page}) says which; `workbench compatibility` makes it anew."
    return said, page, markdown(tree)


def test_the_docs_say_which_techniques_go_together():
    said, page, text = compatibility_lines()
    assert between("compatibility", (ROOT / "README.md").read_text("utf-8")) == said, WRITE
    assert (ROOT / page).read_text("utf-8") == text, WRITE


# Packaging


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def requirements(lines):
    parsed = (Requirement(line) for line in lines)
    return {(each.name.lower(), str(each.specifier), str(each.marker or "")) for each in parsed}


def test_the_conda_environment_agrees_with_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (nested,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert f"python{project()['requires-python']}" in plain
    extras = project()["optional-dependencies"]
    wanted = requirements(project()["dependencies"] + extras["test"] + extras["dev"])
    assert requirements(line for line in nested if not line.startswith("-")) == wanted


def test_the_constraints_pin_every_requirement_within_its_range():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    extras = project()["optional-dependencies"]
    for line in project()["dependencies"] + extras["test"] + extras["dev"]:
        wanted = Requirement(line)
        pinned = pins.get(wanted.name.lower())
        assert pinned is not None, f"{wanted.name} is not pinned"
        assert wanted.specifier.contains(pinned), f"{wanted.name} {pinned} is outside {wanted.specifier}"
    assert pins["torch"] == "2.13.0"


# What must not be in the tree


def tracked():
    """Files that git knows or would take, where there is a git; else none are checked and the test says so."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked source archive has no git to list files")
def test_no_file_is_large_or_names_a_place_on_one_machine():
    place = re.compile(rb"/(?:home|root|Users)/\w|/work/\w|[A-Z]:\\Users")
    for file in tracked():
        trained = file.suffix == ".safetensors" and file.parent == PACKAGES["workbench_data"] / "artifacts"
        assert file.stat().st_size <= (32_000_000 if trained else 1_000_000), f"{file.relative_to(ROOT)} is too large"
        quoted = PACKAGES["workbench_data"] / "prompts" in file.parents
        if not quoted and file.suffix not in {".png", ".safetensors", ".woff2", ".ico"}:
            found = place.search(file.read_bytes())
            assert not found, f"{file.relative_to(ROOT)} names {found[0].decode()}"


def test_no_test_is_skipped_without_a_reason():
    for file in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            place = f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                bare = {"pytest.mark.skip", "pytest.mark.xfail"} & {ast.unparse(each) for each in node.decorator_list}
                assert not bare, f"{place} has {bare} without a reason"
            if isinstance(node, ast.Call):
                called, keywords = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
                if called in {"pytest.mark.skipif", "pytest.mark.xfail"}:
                    assert "reason" in keywords, f"{place} skips without a reason"
                if called in {"pytest.skip", "pytest.mark.skip", "pytest.xfail"}:
                    assert node.args or "reason" in keywords, f"{place} skips without a reason"


if __name__ == "__main__":  # write what is generated into the README, and the page of the matrix
    readme, (said, page, matrix) = ROOT / "README.md", compatibility_lines()
    text = readme.read_text("utf-8")
    for name, inside in (("techniques", technique_table()), ("compatibility", said)):
        text = text.replace(between(name, text), inside)
    readme.write_text(text, "utf-8")
    (ROOT / page).write_text(matrix, "utf-8")

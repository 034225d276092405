"""What is kept of the matrix is whole, is known to be stale when code changes, and says what today's runs say."""

import inspect
import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest

from workbench.errors import TraceError
from workbench.registry import TECHNIQUES
from workbench.settings import outside, settings
from workbench.studies import code_files
from workbench.studies import compatibility_shards as module
from workbench.studies.compatibility_file import entries, techniques
from workbench.studies.compatibility_shards import Shard, fresh, merged, refresh, shards, shipped, stale
from workbench.studies.compatibility_trial import Trial
from workbench.techniques import Technique

NAMES = ["draft_model", "prompt_lookup", "snap_kv"]
REMAKE = "run: workbench compatibility --out data/workbench_data/compatibility, then tests/test_architecture.py"


@pytest.fixture
def three(monkeypatch):
    """A registry of three techniques, two of them drafters."""
    import workbench.techniques  # noqa: F401

    monkeypatch.setattr(TECHNIQUES, "_classes", {name: TECHNIQUES[name] for name in NAMES})


@pytest.fixture
def ran(monkeypatch):
    """What a run of the matrix runs, in place of running it."""
    ran = []
    monkeypatch.setattr(Trial, "pair", lambda self, *key: ran.append(key) or ("runs", f"{key} | {len(ran)}"))
    monkeypatch.setattr(Trial, "condition", lambda self, *key: ran.append(key) or ("exact together", ""))
    return ran


@pytest.fixture
def codes(monkeypatch):
    """Hashes of code that can be changed."""
    codes = {name: name for name in TECHNIQUES} | {"engine": "engine"}
    monkeypatch.setattr(module.code_files, "of_technique", lambda kind: codes[kind.name])
    monkeypatch.setattr(module.code_files, "of_engine", lambda: codes["engine"])
    return codes


def test_a_folder_holds_a_file_per_technique_with_those_before_it(three, ran, tmp_path, tiny):
    made = refresh(tmp_path, tiny("llama"))
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{name}.json" for name in NAMES]
    assert shards(tmp_path) == made
    assert list(made["snap_kv"].pairs) == ["draft_model", "prompt_lookup"]
    assert made["prompt_lookup"].pairs == {}, "two for one slot are arithmetic"
    tree = merged(made)
    assert [each["name"] for each in techniques(tree)] == ["snap_kv", "draft_model", "prompt_lookup"], "by slot"
    assert sorted(row["status"] for row in entries(tree)["pairs"]) == ["excluded", "runs", "runs"]


def test_only_what_changed_is_run_again(three, ran, codes, tmp_path, tiny):
    model = tiny("llama")

    def again(anew=False):
        ran.clear()
        before = {file.name: file.read_text("utf-8") for file in tmp_path.iterdir()}
        due = stale(shards(tmp_path), model)
        refresh(tmp_path, model, anew=anew)
        assert not stale(shards(tmp_path), model)
        after = {file.name: file.read_text("utf-8") for file in tmp_path.iterdir()}
        # A clash is worked out and never due.
        assert anew or set(due) == set(ran) - {("draft_model", "prompt_lookup")}
        return {key for key in ran if key[1] in NAMES}, {name for name in after if after[name] != before.get(name)}

    assert again()[0] == {("draft_model", "prompt_lookup"), ("draft_model", "snap_kv"), ("prompt_lookup", "snap_kv")}
    assert again() == ({("draft_model", "prompt_lookup")}, set()), "nothing is due, and no file is touched"
    codes["draft_model"] = "edited"
    pairs, files = again()
    assert ("draft_model", "snap_kv") in pairs and ("prompt_lookup", "snap_kv") not in pairs
    assert files == {"draft_model.json", "snap_kv.json"}
    codes["engine"] = "edited"
    assert again()[1] == {f"{name}.json" for name in NAMES}
    assert len(again(anew=True)[0]) == 3


def test_what_failed_is_run_again(three, ran, codes, tmp_path, tiny):
    made = refresh(tmp_path, tiny("llama"))
    broken = replace(made["snap_kv"], pairs={**made["snap_kv"].pairs, "prompt_lookup": ("fails", "no memory")})
    assert stale({**made, "snap_kv": broken}, tiny("llama")) == [("prompt_lookup", "snap_kv")]


def test_verdicts_on_another_model_are_not_taken(three, ran, codes, tmp_path, tiny):
    refresh(tmp_path, tiny("llama"))
    assert fresh(shards(tmp_path), tiny("llama")) and not fresh(shards(tmp_path), tiny("gpt2"))


def test_a_technique_that_is_gone_takes_its_file_along(three, ran, tmp_path, tiny, monkeypatch):
    refresh(tmp_path, tiny("llama"))
    monkeypatch.setattr(TECHNIQUES, "_classes", {name: TECHNIQUES[name] for name in NAMES[1:]})
    assert "draft_model" not in refresh(tmp_path, tiny("llama"))["snap_kv"].pairs
    assert not (tmp_path / "draft_model.json").exists()


def test_a_run_that_is_broken_off_keeps_what_it_has(three, codes, tmp_path, tiny, monkeypatch):
    def stopped(self, name, condition):
        if name == "snap_kv":
            raise KeyboardInterrupt
        return "runs", ""

    monkeypatch.setattr(Trial, "condition", stopped)
    with pytest.raises(KeyboardInterrupt):
        refresh(tmp_path, tiny("llama"))
    assert sorted(shards(tmp_path)) == ["draft_model", "prompt_lookup"]


@pytest.mark.parametrize("damage", [
    lambda text: "[]",
    lambda text: text[: len(text) // 2],
    lambda text: text.replace('"runs"', '"walks"'),
    lambda text: text.replace('"alone"', '"lonely"'),
    lambda text: text.replace('"name": "snap_kv"', '"name": "other"'),
])  # fmt: skip
def test_a_damaged_file_is_refused(three, ran, tmp_path, tiny, damage):
    refresh(tmp_path, tiny("llama"))
    file = tmp_path / "snap_kv.json"
    file.write_text(damage(file.read_text("utf-8")), "utf-8")
    with pytest.raises(TraceError):
        shards(tmp_path)


def test_what_does_not_belong_together_is_no_matrix(three, ran, tmp_path, tiny):
    made = refresh(tmp_path, tiny("llama"))
    with pytest.raises(TraceError, match="not whole"):
        merged({**made, "snap_kv": replace(made["snap_kv"], pairs={}, others={})})
    with pytest.raises(TraceError, match="different models"):
        merged({**made, "snap_kv": replace(made["snap_kv"], about={**made["snap_kv"].about, "model": "other"})})
    with pytest.raises(TraceError, match="workbench compatibility --out"):
        merged(shards(tmp_path / "nowhere"))
    assert Shard.from_json(made["snap_kv"].to_json()) == made["snap_kv"]


# What code is


def test_a_technique_is_its_file_and_what_it_imports_up_to_the_engine():
    file = Path(inspect.getsourcefile(TECHNIQUES["medusa_heads"]))
    names = {code_files._name(each) for each in code_files.imported(file)}
    assert "workbench/techniques/draft/medusa_heads.py" in names
    assert "workbench/techniques/draft/_draft_heads.py" in names, "what its slot shares"
    assert "workbench/parts/heads/base.py" in names, "what its part imports"
    assert not [name for name in names if name.startswith(("workbench/engine/", "workbench/models/"))]
    assert not [name for name in names if name.endswith("techniques/__init__.py")]
    assert "workbench/techniques/draft/prompt_lookup.py" not in names


def test_a_hash_changes_with_any_file_and_with_nothing_else(tmp_path):
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_bytes(b"a = 1\nb = 2\n"), other.write_bytes(b"c = 3\n")
    before = code_files._hash([one, other])
    assert code_files._hash([other, one]) == before
    one.write_bytes(b"a = 1\r\nb = 2\r\n")
    assert code_files._hash([one, other]) == before, "line ends are a matter of the system"
    other.write_bytes(b"c = 4\n")
    assert code_files._hash([one, other]) != before
    assert code_files.of_engine() != code_files.of_technique(TECHNIQUES["snap_kv"])


def test_a_class_of_a_notebook_has_a_hash_too():
    made = {}
    exec("class Written:\n    def start(self, run):\n        return 1\n", {"__name__": "__main__"}, made)
    assert code_files.of_technique(made["Written"])


def owner_of(named):
    """A technique with a setting that names another one by default."""

    @settings
    class Owner(Technique):
        part: Annotated[str, outside("technique", "a drafter")] = named

        slots, exact, paper, name = ("draft",), True, "none", "owner"

        def start(self, run):
            return run.start_part(self, "part")

        @classmethod
        def neutral(cls):
            return cls("")

    return Owner


def test_a_hash_follows_the_technique_that_a_setting_names_by_default(monkeypatch):
    plain, owner, nested = map(owner_of, ("", "token_recycling", "suffix_draft:auxiliary=prompt_lookup"))
    assert len(set(map(code_files.of_technique, (plain, owner, nested, owner_of("prompt_lookup"))))) == 4
    assert code_files.of_technique(plain) == code_files._hash(code_files.imported(Path(__file__)))
    code_files.of_technique.cache_clear()
    monkeypatch.setattr(code_files, "_hash", lambda files, loaded=(): {file.stem for file in files})
    own = code_files.of_technique(plain)
    assert code_files.of_technique(owner) > own | {"token_recycling"}
    assert code_files.of_technique(nested) > own | {"suffix_automaton", "prompt_lookup"}
    code_files.of_technique.cache_clear()


# The files that ship


def public():
    import workbench.techniques  # noqa: F401

    return {name: kind for name, kind in TECHNIQUES.items() if kind.__module__.startswith("workbench.")}


def test_the_files_are_of_the_techniques_that_are_registered():
    kept = shards()
    assert set(kept) == set(public()), REMAKE
    for name, kind in public().items():
        assert (kept[name].technique["slots"], kept[name].technique["exact"]) == (list(kind.slots), kind.exact), REMAKE
        assert set(kept[name].pairs) == set(kept[name].others)
        assert all(other < name for other in kept[name].pairs), REMAKE
    assert len(entries(shipped())["pairs"]) == len(kept) * (len(kept) - 1) // 2


def test_the_files_stay_small():
    """Of 150 techniques with as many pairs each, they are far below a megabyte."""
    size = sum(len(shard.to_json()) for shard in shards().values())
    pairs = sum(len(shard.pairs) for shard in shards().values())
    assert pairs and (size - 1500 * len(shards())) / pairs < 100


def test_nothing_in_the_files_fails():
    failed = [row for rows in entries(shipped()).values() for row in rows if row["status"] == "fails"]
    assert not failed, failed


def test_the_files_say_what_running_again_says(tiny):
    stored, trial = entries(shipped()), Trial(tiny("llama"))
    chosen = random.Random(3)

    def by_status(row):
        return row["status"]

    for status, among in itertools.groupby(sorted(stored["pairs"], key=by_status), key=by_status):
        among = list(among)
        for row in chosen.sample(among, min(6, len(among))):
            assert trial.pair(row["one"], row["other"])[0] == status, (row, REMAKE)
    for row in chosen.sample(stored["conditions"], 8):
        assert trial.condition(row["one"], row["other"]) == (row["status"], row["reason"]), (row, REMAKE)


@pytest.mark.slow
def test_the_files_are_of_todays_code(tiny):
    due = stale(shards(), tiny("llama"))
    assert not due, f"{len(due)} verdicts are of code that has changed: {REMAKE}"

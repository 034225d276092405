"""How long the tests will take with more techniques, from the CPU seconds of a run that was measured.

    OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile --cpu-seconds=reports/seconds.json
    .venv/bin/python tests/projection.py reports/seconds.json --techniques 50 100 150

Every test has one owner: the technique whose file it is in, or whose name is first in its parameters, or nobody. What
nobody owns stays as it is. What techniques own is taken per technique of a slot, and grows with their number; slots
that are empty today cost as much as those that enter blocks and caches do on average. Pairs grow with the slots that
are filled as well, as every technique meets one partner in each. What is in no test (imports, collecting, a session's
fixtures) grows as the number of tests.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path

PAIRS = "test_contract_pairs.py"
BLOCKS = ("weights", "context", "depth", "mlp", "experts", "prefill_attention", "attention", "evict", "store")


def owner(nodeid: str, names: set[str]) -> str | None:
    """The technique that a test would not be there without."""
    file, _, test = nodeid.partition("::")
    in_place = re.search(r"tests/techniques/\w+/(?:(\w+)/|test_(\w+)\.py)", file)
    for name in in_place.groups() if in_place else ():
        if name in names:
            return name
    parameters = test.partition("[")[2]
    return next((word for word in re.findall(r"\w+", parameters) if word in names), None)


def parts(record: dict, slots: dict[str, str]) -> dict[str, dict[str, float]]:
    """CPU seconds of a run by what they grow with.

    Parameters
    ----------
    record : dict
        What ``--cpu-seconds`` wrote.
    slots : dict of str to str
        Technique -> the slot that it claims first.

    Returns
    -------
    dict
        ``own`` and ``pairs``: slot -> seconds of all its techniques; ``fixed`` and ``outside``: one number under "".
    """
    own, pairs, fixed = Counter(), Counter(), 0.0
    for nodeid, test in record["tests"].items():
        name = owner(nodeid, set(slots))
        if name is None:
            fixed += test["cpu"]
        else:
            (pairs if PAIRS in nodeid else own)[slots[name]] += test["cpu"]
    outside = record["cpu"] - fixed - sum(own.values()) - sum(pairs.values())
    return {"own": dict(own), "pairs": dict(pairs), "fixed": {"": fixed}, "outside": {"": max(0.0, outside)}}


def projected(record: dict, slots: dict[str, str], mix: dict[str, float], filled: int) -> float:
    """CPU seconds of a run with so many techniques of each slot, ``filled`` slots having any."""
    measured, today = parts(record, slots), Counter(slots.values())
    owned = measured["own"], measured["pairs"]
    blocks = [slot for slot in BLOCKS if today[slot]] or list(today)

    def each(of: dict[str, float], slot: str) -> float:
        among = [slot] if today[slot] else blocks
        return sum(of.get(one, 0.0) for one in among) / sum(today[one] for one in among)

    wider = filled / len(today)
    own, pairs = (sum(count * each(of, slot) for slot, count in mix.items()) for of in owned)
    fixed, outside = measured["fixed"][""], measured["outside"][""]
    # Imports and collecting, which grow as the tests do.
    before = sum(sum(of.values()) for of in owned) + fixed
    tests = fixed + own + pairs * wider
    return tests + outside * tests / before


def scaled(slots: dict[str, str], count: int) -> dict[str, float]:
    """Today's shares of the slots, for so many techniques."""
    today = Counter(slots.values())
    return {slot: count * number / len(slots) for slot, number in today.items()}


def table(record: dict, slots: dict[str, str], counts: list[int], filled: int, used: float) -> list[str]:
    """The measured parts, and what they come to."""
    measured, today = parts(record, slots), Counter(slots.values())
    lines = ["| CPU seconds today | all | techniques | each |", "| --- | --- | --- | --- |"]
    for slot, number in today.most_common():
        seconds = measured["own"].get(slot, 0.0) + measured["pairs"].get(slot, 0.0)
        lines.append(f"| {slot} | {seconds:.0f} | {number} | {seconds / number:.1f} |")
    lines.append(f"| whatever the techniques | {measured['fixed']['']:.0f} | | |")
    lines.append(f"| imports, collecting, models | {measured['outside']['']:.0f} | | |")
    lines += ["", "| techniques | CPU seconds | minutes on two cores |", "| --- | --- | --- |"]
    for count in [len(slots), *counts]:
        seconds = projected(record, slots, scaled(slots, count), len(today) if count == len(slots) else filled)
        lines.append(f"| {count} | {seconds:.0f} | {seconds / 2 / used / 60:.0f} |")
    return lines


def main() -> None:
    """Print the tables."""
    import workbench.techniques  # noqa: F401  fills the registry
    from workbench.engine import SLOTS
    from workbench.registry import TECHNIQUES

    parser = argparse.ArgumentParser(description="How long the tests will take with more techniques.")
    parser.add_argument("file", type=Path, help="what pytest --cpu-seconds wrote")
    parser.add_argument("--techniques", type=int, nargs="+", default=[50, 100, 150])
    parser.add_argument("--used", type=float, help="share of the cores that is used; else that of the measured run")
    options = parser.parse_args()
    record = json.loads(options.file.read_text("utf-8"))
    used = options.used or min(1.0, record["cpu"] / record["workers"] / record["wall"])
    print(f"{len(record['tests'])} tests, {record['cpu']:.0f} CPU seconds, {record['wall']:.0f} s in "
          f"{record['workers']} processes: {used:.0%} of them used")  # fmt: skip
    slots = {name: kind.slots[0] for name, kind in TECHNIQUES.items()}
    print("\n".join(table(record, slots, options.techniques, len(SLOTS), used)))


if __name__ == "__main__":
    main()

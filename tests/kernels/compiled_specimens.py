"""Every specimen compiles for every target, and fits the device. Started by ``test_separate_processes.py``."""

import pytest

from workbench_kernels.specimen import SPECIMENS, TARGETS, Specimen

SHARED_MEMORY_BYTES = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
BINARY = {"cuda": "cubin", "hip": "hsaco"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("specimen", SPECIMENS, ids=lambda specimen: specimen.name)
def test_compiles(specimen: Specimen, target: str) -> None:
    compiled = specimen.compile(target)
    binary = compiled.asm[BINARY[TARGETS[target][0]]]
    assert binary[:4] == b"\x7fELF"
    assert compiled.metadata.shared <= SHARED_MEMORY_BYTES[target]
    assert compiled.metadata.num_warps == specimen.warps


def test_names_are_unique() -> None:
    names = [specimen.name for specimen in SPECIMENS]
    assert len(set(names)) == len(names)


def test_a_specimen_that_does_not_fit_its_kernel_is_refused() -> None:
    good = SPECIMENS[0]
    signature = {name: kind for name, kind in good.signature.items() if name != "vocabulary"}
    bad = Specimen(good.name, good.kernel, signature, good.constants)
    with pytest.raises(ValueError, match="differ in vocabulary"):
        bad.compile("sm_80")

"""The few-rows product against its definition, on every kind of processor that the compiler can make code for here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processors import TAKEN_AWAY

from workbench_kernels.dispatch import BackendUnavailable
from workbench_kernels.few_rows import FewRows
from workbench_kernels.few_rows.reference import reference_product
from workbench_kernels.native import KERNELS, library

TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3}

try:
    FewRows(torch.float32)
except BackendUnavailable as error:
    pytest.skip(f"nothing can be compiled here: {error}", allow_module_level=True)


def made(dtype: torch.dtype, flags: tuple[str, ...]) -> FewRows:
    try:
        return FewRows(dtype, *flags)
    except BackendUnavailable as error:
        pytest.skip(f"this compiler does not know such a processor: {error}")


def operands(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 1000 + inputs)
    x, weight = torch.randn(rows, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    return x.to(dtype), weight.to(dtype)


@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [*range(1, 10), 15, 16, 17, 33])
def test_it_is_the_product(rows, dtype, flags):
    kernel = made(dtype, flags)
    # Below, at and above a register, a whole number of registers and not; outputs that no tile divides.
    for inputs, outputs in ((1, 1), (15, 3), (16, 16), (31, 7), (32, 40), (33, 9), (107, 131), (576, 50)):
        x, weight = operands(rows, inputs, outputs, dtype)
        found, expected = kernel(x, weight), reference_product(x, weight)
        assert found.shape == expected.shape and found.dtype == dtype
        error = (found.double() - expected).norm() / expected.norm()
        assert float(error) < TOLERANCE[dtype], (inputs, outputs)


@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_some_outputs_are_those_of_the_whole_product_bit_for_bit(dtype, flags):
    kernel = made(dtype, flags)
    for inputs, outputs in ((1, 1), (31, 7), (107, 131), (583, 300)):
        for rows in (1, 3, 9, 60):
            x, weight = operands(rows, inputs, outputs, dtype)
            whole = kernel(x, weight)
            generator = torch.Generator().manual_seed(rows)
            for share in (0.0, 0.1, 0.5, 0.9, 1.0):
                places = (torch.rand(outputs, generator=generator) < share).nonzero()[:, 0]
                assert torch.equal(kernel.some(x, weight, places), whole[:, places]), (inputs, outputs, rows, share)
            places = torch.randperm(outputs, generator=generator)
            assert torch.equal(kernel.some(x, weight, places), whole[:, places]), "in any order"


def test_weights_of_other_outputs_are_not_read():
    """They may hold anything."""
    kernel = FewRows(torch.float32)
    x, weight = operands(2, 100, 60, torch.float32)
    places = torch.arange(0, 60, 3)
    expected = kernel(x, weight)[:, places]
    weight[[place for place in range(60) if place % 3]] = float("nan")
    assert torch.equal(kernel.some(x, weight, places), expected)


@pytest.mark.parametrize("flags", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype, flags):
    kernel = made(dtype, flags)
    x, weight = operands(40, 583, 77, dtype)
    alone = torch.cat([kernel(row[None], weight) for row in x])
    for rows in (2, 3, 5, 8, 9, 16, 40):
        assert torch.equal(kernel(x[:rows], weight), alone[:rows]), rows


def test_a_row_does_not_depend_on_the_number_of_threads():
    kernel = FewRows(torch.bfloat16)
    x, weight = operands(5, 576, 1000, torch.bfloat16)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(kernel(x, weight))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_nan_and_infinity_come_through():
    for dtype in TOLERANCE:
        x = torch.zeros(3, 64, dtype=dtype)
        x[0, 5], x[1, 6] = torch.nan, torch.inf
        found = FewRows(dtype)(x, torch.ones(20, 64, dtype=dtype))
        assert found[0].isnan().all() and found[1].isinf().all() and (found[2] == 0).all()


def test_nothing_is_written_beside_the_result():
    kernel = FewRows(torch.float32)
    for outputs in (1, 5, 17):
        x, weight = operands(3, 40, outputs, torch.float32)
        buffer = torch.full((3 * outputs + 64,), torch.nan)
        kernel._run(x.data_ptr(), weight.data_ptr(), buffer[32:].data_ptr(), 3, 40, outputs, 2)
        assert buffer[:32].isnan().all() and buffer[32 + 3 * outputs :].isnan().all()
        assert not buffer[32 : 32 + 3 * outputs].isnan().any()


def test_rows_of_a_larger_tensor_and_no_rows():
    kernel = FewRows(torch.float32)
    x, weight = operands(8, 24, 10, torch.float32)
    assert torch.equal(
        kernel(x[::2, :12], weight[:, :12].contiguous()), kernel(x[::2, :12].contiguous(), weight[:, :12].contiguous())
    )
    assert kernel(x[:0], weight).shape == (0, 10)


@pytest.mark.parametrize(
    "x, weight",
    [
        (torch.ones(2, 8), torch.ones(3, 9)),
        (torch.ones(2, 8).bfloat16(), torch.ones(3, 8)),
        (torch.ones(2, 8), torch.ones(8, 3).T),
        (torch.ones(8), torch.ones(3, 8)),
        (torch.ones(2, 8, device="meta"), torch.ones(3, 8)),
    ],
)
def test_what_does_not_fit_is_refused(x, weight):
    with pytest.raises(ValueError, match="few rows need"):
        FewRows(torch.float32)(x, weight)


def test_other_dtypes_have_no_kernel():
    with pytest.raises(BackendUnavailable, match="float16"):
        FewRows(torch.float16)


def test_there_is_one_openmp_in_the_process():
    """Two would each keep threads that spin, and take the cores from one another."""
    FewRows(torch.float32)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list what a process has loaded")
    loaded = {
        line.split()[-1] for line in maps.read_text("utf-8").splitlines() if "libgomp" in line or "libomp" in line
    }
    assert len(loaded) <= 1, loaded


class TestCompiling:
    """What was compiled is kept, and what cannot be says why."""

    def run(self, code: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
        )
        assert not done.returncode, done.stderr
        return done.stdout.strip()

    def test_no_compiler(self, tmp_path):
        code = (
            "import torch\nfrom workbench_kernels.few_rows import FewRows, BackendUnavailable\n"
            "try:\n    FewRows(torch.float32)\nexcept BackendUnavailable as error:\n    print(error)\n"
            "from workbench_kernels.arithmetic import compiled\nprint(compiled(torch.float32))"
        )
        said = self.run(code, PATH=str(tmp_path), CXX="", WORKBENCH_CACHE=str(tmp_path))
        assert "no C++ compiler" in said and said.endswith("False")

    def test_it_compiles_once(self, tmp_path):
        code = "import torch\nfrom workbench_kernels.few_rows import FewRows\nFewRows(torch.float32)"
        self.run(code, WORKBENCH_CACHE=str(tmp_path))
        (made,) = (tmp_path / "native").glob("*.so")
        before = made.stat().st_mtime_ns
        self.run(code, WORKBENCH_CACHE=str(tmp_path))
        assert [each.stat().st_mtime_ns for each in (tmp_path / "native").glob("*.so")] == [before]

    def test_a_folder_that_others_may_write_is_refused(self, tmp_path, monkeypatch):
        (tmp_path / "native").mkdir()
        (tmp_path / "native").chmod(0o777)
        monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
        with pytest.raises(BackendUnavailable, match="changed by others"):
            library(KERNELS, "-DOTHERS")

    def test_a_compiler_that_refuses_is_quoted(self, tmp_path):
        source = tmp_path / "broken.cpp"
        source.write_text("this is not C++\n", "utf-8")
        with pytest.raises(BackendUnavailable, match=r"broken: .* said: .*broken\.cpp"):
            library(source)

    def test_what_failed_is_not_tried_again(self, tmp_path, monkeypatch):
        source, tried = tmp_path / "broken_too.cpp", []
        source.write_text("nor is this\n", "utf-8")
        run = subprocess.run
        monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: tried.append(args) or run(*args, **kwargs))
        for _ in range(3):
            with pytest.raises(BackendUnavailable, match="broken_too"):
                library(source)
        assert len(tried) == 2, "the compiler's version, and one attempt"

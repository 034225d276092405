"""The table of hardware: data sheets, and this machine."""

import pytest
import torch

from workbench.cost import hardware as table
from workbench.cost.hardware import DATA_SHEETS, NAMES, THIS_CPU, Hardware, hardware, hardware_table
from workbench.errors import SettingError

SHEETS = {  # TFLOP/s in bfloat16, dense; GB/s
    "H100 SXM": (989, 3350),
    "A100 SXM 80GB": (312, 2039),
    "RTX 4090": (165, 1008),
}


@pytest.fixture
def quick(monkeypatch):
    """Measure on operands so small that the test takes no time."""
    monkeypatch.setattr(table, "copy_bandwidth", lambda threads: _copy(threads, 1 << 16))
    monkeypatch.setattr(table, "matmul_peak", lambda dtype, threads: _peak(dtype, threads, (32, 64)))


_copy, _peak = table.copy_bandwidth, table.matmul_peak


def test_the_data_sheets_name_their_source_and_give_dense_figures():
    assert set(DATA_SHEETS) == set(SHEETS)
    for name, (tera, giga) in SHEETS.items():
        row = hardware(name)
        assert row.peak("bfloat16") == pytest.approx(tera * 1e12, rel=2e-3)
        assert row.bandwidth == giga * 1e9
        assert row.peak("float32") < row.peak("float16")
        assert "NVIDIA" in row.source and "20" in row.source


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_this_cpu_is_measured(quick, dtype):
    row = hardware(THIS_CPU, dtype)
    assert row.source == "measured" and row.name == THIS_CPU
    assert 1e6 < row.peak(dtype) < 1e15
    assert 1e6 < row.bandwidth < 1e14


def test_this_cpu_is_measured_once():
    threads = torch.get_num_threads()
    assert _copy(threads, 1 << 16) == _copy(threads, 1 << 16)
    assert _peak("float32", threads, (48,)) == _peak("float32", threads, (48,))


def test_copying_counts_reading_and_writing_and_a_product_two_operations(monkeypatch):
    monkeypatch.setattr(table, "_fast", lambda work: work() is None or 2.0)
    assert table.copy_bandwidth.__wrapped__(1, 1 << 12) == 2 * (1 << 12) / 2.0
    assert table.matmul_peak.__wrapped__("float32", 1, (10,)) == 2 * 10**3 / 2.0


def test_a_slow_machine_is_spared_the_large_product(monkeypatch):
    sizes = []
    monkeypatch.setattr(table, "_fast", lambda work: sizes.append(len(work())) or 1.0)
    table.matmul_peak.__wrapped__("float32", 1, (16, 64))
    assert sizes == [16]


def test_one_wrong_reading_of_the_clock_is_not_the_peak(monkeypatch):
    readings = iter([0, 1.0, 1, 2.0, 2, 2 + 1e-6, 3, 4.5, 5, 6.25])  # begin and end of five calls
    monkeypatch.setattr(table.time, "perf_counter", lambda: next(readings))
    assert table._fast(lambda: None, budget=0.0) == 1.0


def test_one_s_own_hardware_and_choices(quick):
    own = Hardware("mine", {"float32": 1e9}, 1e9, "guessed")
    assert hardware_table([own, "RTX 4090"]) == [own, DATA_SHEETS["RTX 4090"]]
    assert [row.name for row in hardware_table(None, "float32")] == list(NAMES)
    assert hardware_table([]) == []
    with pytest.raises(SettingError, match="bfloat16"):
        own.peak("bfloat16")
    with pytest.raises(SettingError, match="H100 SXM"):
        hardware("abacus")

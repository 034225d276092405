"""The threads that share a kernel's work: several callers, and another number of them."""

import threading

import pytest
import torch

from workbench_kernels.few_rows import BackendUnavailable, FewRows

try:
    KERNEL = FewRows(torch.float32)
except BackendUnavailable as error:
    pytest.skip(f"nothing can be compiled here: {error}", allow_module_level=True)

X, WEIGHT = torch.randn(3, 64), torch.randn(3000, 64)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_callers_at_the_same_time_do_not_disturb_one_another(threads):
    threads(1)
    expected, wrong = KERNEL(X, WEIGHT), []
    threads(3)

    def call():
        wrong.extend(1 for _ in range(200) if not torch.equal(KERNEL(X, WEIGHT), expected))

    callers = [threading.Thread(target=call) for _ in range(4)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert not wrong


def test_the_number_of_threads_may_change_from_call_to_call(threads):
    threads(1)
    expected = KERNEL(X, WEIGHT)
    for count in (2, 5, 1, 70, 3) * 20:
        threads(count)
        assert torch.equal(KERNEL(X, WEIGHT), expected), count

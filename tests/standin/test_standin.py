"""The stand-in itself: what it refuses, what it counts, and that nothing of it stays."""

import copy
import threading

import pytest
import torch

from workbench.errors import SettingError
from workbench.models.device import device_named, devices, numbers, read, wait
from workbench.standin import NAME, StandinTensor, standin
from workbench_kernels.activation import activate
from workbench_kernels.arithmetic import computes
from workbench_kernels.dispatch import BackendUnavailable, choose_backend


@pytest.fixture
def device():
    with standin() as device, torch.inference_mode():
        yield device


def there(*shape):
    return torch.arange(float(torch.Size(shape).numel()), device="cuda").view(shape)


MIXED = {
    "sum": lambda x, host: x + host,
    "product": lambda x, host: x @ host.T,
    "product the other way round": lambda x, host: host @ x.T,
    "cat": lambda x, host: torch.cat((x, host)),
    "where": lambda x, host: torch.where(x > 0, x, host),
    "gather": lambda x, host: x.gather(1, host.long().clamp(0, 1)),
    "index_select": lambda x, host: x.index_select(0, torch.tensor([0])),
    "embedding": lambda x, host: torch.nn.functional.embedding(torch.tensor([0]), x),
    "in place": lambda x, host: host.add_(x),
    "values of an index": lambda x, host: x.__setitem__(torch.tensor([0, 1], device="cuda"), host[:2]),
    "index of a host tensor": lambda x, host: host[torch.tensor([0], device="cuda")],
    "generator": lambda x, host: torch.rand(2, device="cuda", generator=torch.Generator()),
}


@pytest.mark.parametrize("name", MIXED)
def test_host_and_device_are_not_mixed(device, name):
    with pytest.raises((RuntimeError, TypeError), match=r"device|cpu"):
        MIXED[name](there(3, 4), torch.ones(3, 4))


def test_numbers_of_the_host_are_taken_along(device):
    x = there(2)
    assert (x + torch.tensor(1.0)).tolist() == [1.0, 2.0] and (x * 2 + 1).tolist() == [1.0, 3.0]
    assert torch.where(x > 0, x, torch.tensor(-1.0)).tolist() == [-1.0, 1.0]


WAITS = {
    "item": (lambda x: x[0, 0].item(), 1),
    "int": (lambda x: int(x[0, 1]), 1),
    "float": (lambda x: float(x.sum()), 1),
    "bool": (lambda x: bool((x > 0).any()), 1),
    "a number as an index": (lambda x: [10, 11, 12][x[0, 1].long()], 1),
    "an index of its own": (lambda x: x[x[0, 1].long()], 1),
    "tolist": (lambda x: x.tolist(), 1),
    "cpu": (lambda x: x.cpu(), 1),
    "to": (lambda x: x.to("cpu", torch.float64), 1),
    "copy_": (lambda x: torch.empty(3, 4).copy_(x), 1),
    "equal": (lambda x: torch.equal(x, x), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "mask": (lambda x: x[x > 3], 1),
    "rows of a mask": (lambda x: x[x[:, 0] > 3], 1),
    "masked_select": (lambda x: x.masked_select(x > 3), 1),
    "unique": (lambda x: x.unique(), 1),
    "where of a mask alone": (lambda x: torch.where(x > 3), 1),
    "repeats": (lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.long, device="cuda"), 0), 1),
    "read": (lambda x: read(x, x[0].long(), x > 3), 1),
    "synchronize": (lambda x: torch.cuda.synchronize(), 1),
    "wait": (lambda x: wait(x.device), 1),
    "product": (lambda x: x @ x.T, 0),
    "index": (lambda x: x[torch.tensor([0, 1], device="cuda")], 0),
    "slice": (lambda x: x[1:, None, ..., -1], 0),
    "fill by a mask": (lambda x: x.__setitem__(x > 3, 0.0), 0),
    "where": (lambda x: x.where(x > 3, 0.0), 0),
    "topk": (lambda x: x.topk(2), 0),
    "numbers": (lambda x: numbers([3], x.device), 0),
    "shape": (lambda x: (len(x), x.shape, x.numel(), x.device), 0),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_counted(device, name):
    work, waits = WAITS[name]
    x = there(3, 4)
    device.counts.reset()
    work(x)
    assert device.counts.synchronisations == waits, device.counts


def test_uploads_are_counted_apart(device):
    x = there(3, 4)
    device.counts.reset()
    torch.tensor([1, 2], device="cuda")
    torch.ones(2).to("cuda")
    x[torch.tensor([0, 2])], x[[0, 2]]
    x[0] = torch.zeros(4)
    assert (device.counts.synchronisations, device.counts.uploads) == (0, 5)
    assert numbers(range(3), x.device).tolist() == [0, 1, 2] and device.counts.uploads == 5


def test_a_wait_is_put_down_to_the_line_that_waits(device):
    read(there(2))
    ((place, kind),) = device.counts.places
    assert place.startswith("workbench.models.device:") and kind == "copy"


def test_nothing_is_waited_for_where_nothing_is_to_do(device):
    x = there(3)
    x.tolist()
    device.counts.reset()
    wait(x.device), x[1:], x.view(3, 1)
    wait(x.device)
    assert device.counts.synchronisations == 0
    x + 1
    wait(x.device)
    assert device.counts.synchronisations == 1


@pytest.mark.parametrize(
    "index",
    [1, -1, slice(1, None), (slice(None), 2), (..., 0), (None, 1), ([0, 2],), ([0, 2], [1, 1]), (slice(None), [0, 3]),
     (0, slice(1, 3)), range(2), (slice(None, None, 2), None, 1)],
    ids=str,
)  # fmt: skip
def test_it_is_indexed_as_torch_indexes(device, index):
    x, host = there(3, 4), torch.arange(12.0).view(3, 4)
    assert torch.equal(x[index].cpu(), host[index])
    x[index] = 7.0
    host[index] = 7.0
    assert torch.equal(x.cpu(), host)
    x[index] = 2 * x[index]
    host[index] = 2 * host[index]
    assert torch.equal(x.cpu(), host)


def test_what_is_written_to_a_view_is_written_to_its_base(device):
    x = there(3, 4)
    x[1, 1:3].fill_(0.0)
    x.narrow(0, 2, 1).copy_(there(1, 4))
    same = x.add_(1.0)
    assert same is x and x.tolist()[1:] == [[5.0, 1.0, 1.0, 8.0], [1.0, 2.0, 3.0, 4.0]]


def test_it_is_no_array_and_has_no_address_for_kernels(device):
    x = there(3, 4)
    with pytest.raises(TypeError, match=r"Tensor\.cpu"):
        x.numpy()
    assert not computes(x)
    with pytest.raises(RuntimeError, match="kernel for the CPU"):
        activate(x, "silu", False)


def test_backends_that_cannot_run_on_it_are_not_chosen(device):
    assert choose_backend(None, torch.device("cuda")) == "torch"
    with pytest.raises(BackendUnavailable, match=NAME):
        choose_backend("triton", torch.device("cuda"))
    with pytest.raises(BackendUnavailable, match="made for the CPU"):
        choose_backend("native", torch.device("cuda"), ("triton", "native", "torch"))


def test_threads_have_it_too(device):
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.zeros(2, device="cuda") + 1))
    thread.start()
    thread.join()
    assert isinstance(found[0], StandinTensor) and found[0].tolist() == [1.0, 1.0]


def test_modules_move_there_and_back_learn_nothing():
    module = torch.nn.Linear(3, 2).requires_grad_(False)
    with standin(), torch.no_grad():
        moved = copy.deepcopy(module).to("cuda")
        x = torch.ones(1, 3)
        assert moved.weight.device.type == "cuda" and isinstance(moved.weight, torch.nn.Parameter)
        torch.testing.assert_close(moved(x.to("cuda")).cpu(), module(x))
        with pytest.raises(RuntimeError, match="two devices"):
            moved(x)


def test_nothing_of_it_stays():
    before = {
        name: getattr(torch.cuda, name) for name in ("is_available", "synchronize", "current_stream", "_lazy_init")
    }
    run, where = threading.Thread.run, devices()
    with pytest.raises(ZeroDivisionError), standin():
        assert torch.cuda.is_available() and devices() == ["cpu", "cuda:0"] and torch.cuda.get_device_name() == NAME
        x = torch.ones(2, device="cuda")
        1 / 0  # noqa: B018
    assert {name: getattr(torch.cuda, name) for name in before} == before and threading.Thread.run is run
    assert devices() == where
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="there is no device"):
            device_named("cuda")
    with pytest.raises(RuntimeError, match="had ended"):
        x + 1

"""The unembedding statistics in plain torch: the reference by hand and in float64, the chunked path against it."""

import math
import subprocess
import sys

import pytest
import torch

from workbench_kernels.dispatch import BackendUnavailable, choose_backend
from workbench_kernels.unembed_statistics import Norm, UnembedStatistics, chunked, unembed_statistics
from workbench_kernels.unembed_statistics.combine import candidates_of, keys_of
from workbench_kernels.unembed_statistics.reference import reference_statistics

WIDTH = 24
FIELDS = ("top_ids", "top_logits", "log_sum_exp", "entropy", "target_logit", "target_rank")


def make(rows: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> dict:
    generator = torch.Generator().manual_seed(rows * 1000 + vocabulary)
    return {
        "rows": torch.randn(rows, WIDTH, generator=generator).to(dtype),
        "weight": (torch.randn(vocabulary, WIDTH, generator=generator) / 2).to(dtype),
        "bias": torch.randn(vocabulary, generator=generator).to(dtype),
        "target": torch.randint(vocabulary, (rows,), generator=generator),
    }


def reference(arguments: dict, top_k: int, dtype: torch.dtype = torch.float64, **settings) -> dict:
    values = {"norm": Norm(), "bias": None, "scale": 1.0, "softcap": None, "target": None, **arguments, **settings}
    return reference_statistics(**values, top_k=top_k, dtype=dtype)


def agree(found: UnembedStatistics, expected: dict, tolerance: float = 1e-5) -> None:
    for name in FIELDS:
        value, wanted = getattr(found, name), expected[name]
        if wanted is None:
            assert value is None, name
        elif wanted.is_floating_point():
            assert value.dtype == torch.float32, name
            torch.testing.assert_close(value.double(), wanted.double(), rtol=tolerance, atol=tolerance)
        else:
            assert torch.equal(value, wanted), name


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4 rows, tiles of 128 tokens, blocks of 16: small sizes cross every boundary."""
    settings = {"BLOCK": 16, "TIE_BLOCK": 32, "CHUNK_ROWS": 4, "TILE_VALUES": 4 * 128, "PRODUCT_TOKENS": 48}
    for name, value in settings.items():
        monkeypatch.setattr(chunked, name, value)


def test_reference_on_a_distribution_known_by_hand() -> None:
    probabilities = torch.tensor([0.125, 0.5, 0.25, 0.125], dtype=torch.float64)
    found = reference({"rows": probabilities.log()[None], "weight": torch.eye(4)}, 2, target=torch.tensor([3]))
    assert found["top_ids"].tolist() == [[1, 2]]
    assert found["entropy"].item() == pytest.approx(1.75 * math.log(2))
    assert found["log_sum_exp"].item() == pytest.approx(0.0, abs=1e-12)
    assert found["target_rank"].item() == 3  # token 0 has the same logit and a smaller id
    assert found["target_logit"].item() == pytest.approx(math.log(0.125))


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 17, 127, 128, 129, 3 * 128 + 7])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 19])
def test_chunked_path_equals_the_reference(rows: int, vocabulary: int, small_chunks: None) -> None:
    arguments, top_k = make(rows, vocabulary), min(5, vocabulary)
    agree(unembed_statistics(**arguments, top_k=top_k), reference(arguments, top_k))


@pytest.mark.parametrize("top_k", [1, 17, 32])
@pytest.mark.parametrize("settings", [{}, {"scale": 0.3}, {"softcap": 3.0}, {"scale": 2.0, "softcap": 5.0}], ids=str)
def test_scale_softcap_and_top_k(settings: dict, top_k: int, small_chunks: None) -> None:
    arguments = make(6, 300)
    agree(unembed_statistics(**arguments, **settings, top_k=top_k), reference(arguments, top_k, **settings))


def test_chunked_path_at_its_own_sizes() -> None:
    arguments = make(300, 9000)
    agree(unembed_statistics(**arguments), reference(arguments, 5))


@pytest.mark.parametrize("route", ["small", "own"])
def test_equal_logits_are_ordered_by_token_id(route: str, request: pytest.FixtureRequest) -> None:
    if route == "small":
        request.getfixturevalue("small_chunks")
    generator = torch.Generator().manual_seed(1)
    arguments = {
        "rows": torch.randint(-1, 2, (40, 4), generator=generator).float(),
        "weight": torch.randint(-1, 2, (1300, 4), generator=generator).float(),
        "target": torch.randint(1300, (40,), generator=generator),
    }
    agree(unembed_statistics(**arguments, top_k=20), reference(arguments, 20))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_equals_the_statistics_of_the_rounded_logits(dtype: torch.dtype, small_chunks: None) -> None:
    arguments = make(7, 300, dtype)
    found = unembed_statistics(**arguments, top_k=5)
    logits = torch.nn.functional.linear(arguments["rows"], arguments["weight"], arguments["bias"])
    rounded = {"rows": logits.double(), "weight": torch.eye(300, dtype=torch.float64), "target": arguments["target"]}
    expected = reference(rounded, 5)
    torch.testing.assert_close(found.log_sum_exp.double(), expected["log_sum_exp"], rtol=1e-3, atol=2e-2)
    torch.testing.assert_close(found.entropy.double(), expected["entropy"], rtol=1e-3, atol=2e-2)
    assert (found.target_rank == expected["target_rank"]).float().mean() > 0.5
    exact = reference(arguments, 5)
    torch.testing.assert_close(found.entropy.double(), exact["entropy"], rtol=1e-2, atol=5e-2)
    torch.testing.assert_close(found.top_logits.double(), exact["top_logits"], rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_target_in_the_top_k_has_its_place_as_rank(dtype: torch.dtype) -> None:
    arguments = make(50, 2000, dtype)
    top = unembed_statistics(**arguments, top_k=8)
    for place in range(8):
        again = unembed_statistics(**{**arguments, "target": top.top_ids[:, place]}, top_k=8)
        assert (again.target_rank == place).all()
        assert torch.equal(again.target_logit, top.top_logits[:, place])
        torch.testing.assert_close(again.target_probability, top.top_probabilities[:, place])


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_against_their_formulas(kind: str) -> None:
    arguments = make(6, 90)
    rows = arguments["rows"].double() * 7 + 2
    gain, shift = torch.rand(WIDTH), torch.rand(WIDTH) if kind == "layer" else None
    norm = Norm(kind, gain, shift, eps=0.1, offset=1.0)
    if kind == "layer":
        centred = rows - rows.sum(-1, keepdim=True) / WIDTH
        normed = centred / ((centred**2).sum(-1, keepdim=True) / WIDTH + 0.1).sqrt() * (gain + 1.0) + shift
    else:
        normed = rows / ((rows**2).sum(-1, keepdim=True) / WIDTH + 0.1).sqrt() * (gain + 1.0)
    found = unembed_statistics(**{**arguments, "rows": rows}, norm=norm)
    agree(found, reference({**arguments, "rows": normed}, 5))


def test_probabilities() -> None:
    arguments = make(6, 30)
    found = unembed_statistics(**arguments, top_k=30)
    torch.testing.assert_close(found.top_probabilities.sum(-1), torch.ones(6))
    torch.testing.assert_close(found.target_log_probability.exp(), found.target_probability)
    entropy = -(found.top_probabilities * found.top_log_probabilities).sum(-1)
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-5, atol=1e-5)
    without = unembed_statistics(arguments["rows"], arguments["weight"])
    assert without.target_probability is None and without.target_log_probability is None


def test_one_target_for_all_rows_and_no_rows() -> None:
    arguments = make(6, 30)
    one = unembed_statistics(**{**arguments, "target": 7})
    assert torch.equal(one.target_rank, unembed_statistics(**{**arguments, "target": torch.full((6,), 7)}).target_rank)
    none = unembed_statistics(**{**arguments, "rows": arguments["rows"][:0], "target": 7})
    assert none.top_ids.shape == (0, 5) and none.target_rank.shape == (0,) and none.backend == "torch"


def test_a_peaked_and_a_flat_distribution() -> None:
    peaked = unembed_statistics(torch.tensor([[1000.0]]), torch.linspace(-1, 1, 500)[:, None])
    assert 0.0 <= peaked.entropy.item() < 0.2
    flat = unembed_statistics(torch.zeros(1, 3), torch.ones(5000, 3), target=4999, top_k=3)
    assert flat.entropy.item() == pytest.approx(math.log(5000), abs=1e-5)
    assert flat.target_rank.item() == 4999 and flat.top_ids.tolist() == [[0, 1, 2]]


def test_reference_backend_and_dispatch() -> None:
    arguments = make(6, 30)
    found = unembed_statistics(**arguments, backend="reference")
    assert found.backend == "reference"
    agree(found, reference(arguments, 5, torch.float32))
    assert choose_backend(None, torch.device("cpu")) == "torch"
    with pytest.raises(BackendUnavailable, match=r"triton.*cannot run.*ask for torch, reference"):
        unembed_statistics(**arguments, backend="triton")
    with pytest.raises(BackendUnavailable, match="no backend 'cuda'"):
        unembed_statistics(**arguments, backend="cuda")


def test_triton_is_chosen_on_cuda_only_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert choose_backend(None, device) == "triton"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_backend(None, device) == "torch"
    with pytest.raises(BackendUnavailable, match="not installed"):
        choose_backend("triton", device)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.zeros(WIDTH)}, "share their width"),
        ({"rows": torch.zeros(6, WIDTH + 1)}, "share their width"),
        ({"weight": torch.zeros(0, WIDTH), "bias": None}, "share their width"),
        ({"weight": torch.zeros(30, WIDTH, dtype=torch.int8)}, "floating point"),
        ({"bias": torch.zeros(29)}, "bias has shape"),
        ({"top_k": 31}, "top_k is 31"),
        ({"top_k": 0}, "top_k is 0"),
        ({"softcap": 0.0}, "softcap"),
        ({"target": torch.full((6,), 30)}, "Target 30 is not in the vocabulary of 30"),
        ({"target": -1}, "Target -1"),
        ({"target": torch.zeros(5, dtype=torch.long)}, "one integer per row"),
        ({"target": torch.zeros(6)}, "one integer per row"),
        ({"norm": Norm("rms", torch.ones(3))}, r"Norm\.weight has shape"),
        ({"norm": Norm("rms", bias=torch.ones(WIDTH))}, "takes no bias"),
        ({"norm": Norm("none", torch.ones(WIDTH))}, "takes no weight"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unembed_statistics(**{**make(6, 30), **change})


def test_a_norm_of_another_kind_is_refused() -> None:
    norm = Norm()
    object.__setattr__(norm, "kind", "batch")  # past the type check that tests alone have
    with pytest.raises(ValueError, match="'rms', 'layer' or 'none'"):
        unembed_statistics(**make(6, 30), norm=norm)


def test_more_than_32_are_refused_even_in_a_large_vocabulary() -> None:
    with pytest.raises(ValueError, match="from 1 to 32"):
        unembed_statistics(**make(6, 90), top_k=33)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_raise(value: float, backend: str) -> None:
    arguments = make(6, 300)
    arguments["bias"][250] = value
    with pytest.raises(FloatingPointError, match="6 of 6 rows have NaN or infinite logits"):
        unembed_statistics(**arguments, backend=backend)
    arguments = make(6, 300)
    arguments["rows"][4, 2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"1 of 6 rows .* the first is row 4"):
        unembed_statistics(**arguments, backend=backend)


def test_keys_order_as_a_stable_descending_sort() -> None:
    values = torch.tensor([0.0, -0.0, 1.5, -1.5, 3e38, -3e38, 1e-45, -1e-45, 1.5, 0.0])
    keys = keys_of(values, torch.arange(10))
    order = keys.sort(descending=True).indices
    assert torch.equal(order, values.sort(descending=True, stable=True).indices)
    ids, logits = candidates_of(keys)
    assert torch.equal(ids, torch.arange(10)) and torch.equal(logits, values)


def test_arguments_are_left_as_they_were() -> None:
    arguments = make(6, 300)
    copies = {name: value.clone() for name, value in arguments.items()}
    unembed_statistics(**arguments, softcap=2.0, scale=3.0)
    assert all(torch.equal(arguments[name], copies[name]) for name in copies)


def test_strided_rows_and_weights() -> None:
    arguments = make(12, 300)
    found = unembed_statistics(arguments["rows"].T.contiguous().T[::2], arguments["weight"].T.contiguous().T)
    expected = reference({"rows": arguments["rows"][::2], "weight": arguments["weight"]}, 5)
    agree(found, expected)


def test_torch_path_runs_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import workbench_kernels, workbench_kernels.specimen\n"
        "assert 'torch' not in sys.modules\n"
        "import importlib.util, torch\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'triton' else found(name, package)\n"
        "from workbench_kernels.unembed_statistics import unembed_statistics\n"
        "print(unembed_statistics(torch.ones(2, 3), torch.ones(9, 3)).backend)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "torch", done.stderr

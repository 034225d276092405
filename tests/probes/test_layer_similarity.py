"""LayerSimilarity against HSIC of explicitly U-centred Gram matrices and position-by-position angles."""

import numpy as np
import pytest
import torch

from workbench.probes import LayerSimilarity
from workbench.probes._probe import sample
from workbench.probes.layer_similarity import linear_cka
from workbench.studies.observe import observe


def similarity(model, ids, probe):
    return observe(model, ids, [probe])["probes/layer_similarity"]


def hsic_cka(one, other):
    """The unbiased HSIC as an inner product of U-centred Gram matrices, entry by entry (Szekely and Rizzo, 2014)."""
    count = len(one)

    def centred(x):
        gram = x @ x.T
        np.fill_diagonal(gram, 0)
        rows = gram.sum(1) / (count - 2)
        centred = gram - rows[:, None] - rows + gram.sum() / ((count - 1) * (count - 2))
        np.fill_diagonal(centred, 0)
        return centred

    first, second = centred(one), centred(other)
    return (first * second).sum() / np.sqrt((first * first).sum() * (second * second).sum())


def cosines(one, other):
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


@pytest.mark.parametrize("positions", [None, 11])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "gpt_neox", "olmo2", "mixtral", "qwen3_moe"])
def test_equals_the_definition(tiny, look, text_ids, family, positions):
    model = tiny(family)
    found = similarity(model, text_ids, LayerSimilarity(positions=positions))
    streams = look(model, text_ids).residuals[:, sample(len(text_ids), positions)].double().numpy()
    unit = streams / np.linalg.norm(streams, axis=-1, keepdims=True)
    for name, vectors in (("cka", streams), ("cka_directions", unit)):
        expected = [[hsic_cka(one, other) for other in vectors] for one in vectors]
        np.testing.assert_allclose(found[name].values, expected, atol=1e-5, err_msg=name)
    through = [cosines(streams[i], streams[i + 1]).mean() for i in range(4)]
    np.testing.assert_allclose(found.input_output_cosine.values, through, atol=1e-5)
    np.testing.assert_allclose(found.block_influence.values, 1 - np.array(through), atol=1e-5)
    for start in range(4):
        for span in range(1, 5):
            value = float(found.angular_distance.sel(start_layer=start, span=span))
            if start + span > 4:
                assert np.isnan(value)
            else:
                expected = (np.arccos(cosines(streams[start], streams[start + span])) / np.pi).mean()
                assert value == pytest.approx(expected, abs=1e-4)


def test_cka_knows_rotations_and_scales():
    """Invariant to rotation, scale and shift; Gram blocks of any size give the same."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(200, 24, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(24, 24, generator=generator))
    other = torch.randn(200, 24, generator=generator)
    found = linear_cka(torch.stack((data, 3 * data @ turn + 7, other)))
    assert float(found[0, 1]) == pytest.approx(1, abs=1e-5)
    assert float(found[0, 2]) == pytest.approx(hsic_cka(data.double().numpy(), other.double().numpy()), abs=1e-5)


@pytest.mark.parametrize(("positions", "spread"), [(64, 0.1), (256, 0.02), (1024, 0.01)])
def test_unrelated_streams_score_nothing_and_equal_ones_one(positions, spread):
    """At the bundled model's width; the biased estimator gives 0.90, 0.69 and 0.36 to the same numbers."""
    data = torch.randn(6, positions, 576, generator=torch.Generator().manual_seed(positions))
    found = linear_cka(torch.cat((data, data[:1])))
    unrelated = found[:6, :6][~torch.eye(6, dtype=torch.bool)]
    assert float(unrelated.abs().max()) < spread and abs(float(unrelated.mean())) < spread / 2
    assert float(found[0, 6]) == pytest.approx(1, abs=1e-6)


def test_it_is_unbiased_for_streams_that_share_a_part():
    """Half of the variance in common: the mean over few examples is what many examples give."""
    generator = torch.Generator().manual_seed(3)
    shared, one, other = torch.randn(3, 4000, 16, generator=generator)
    whole = torch.stack((shared + one, shared + other))
    expected = float(linear_cka(whole)[0, 1])
    few = [float(linear_cka(part)[0, 1]) for part in whole.split(20, dim=1)]
    assert np.mean(few) == pytest.approx(expected, abs=0.03) and expected == pytest.approx(0.25, abs=0.03)


def test_spans_cut_the_table(tiny, text_ids):
    model = tiny("llama")
    whole, part = (similarity(model, text_ids, LayerSimilarity(spans=spans)) for spans in (None, 2))
    assert part.span.values.tolist() == [1, 2]
    np.testing.assert_array_equal(part.angular_distance, whole.angular_distance.sel(span=[1, 2]))


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_tokens_have_angles_but_no_similarity(tiny, count):
    found = similarity(tiny("llama"), [7, 8, 9][:count], LayerSimilarity())
    assert found.cka.isnull().all() and found.input_output_cosine.notnull().all()


@pytest.mark.bundled
def test_neighbours_in_the_bundled_model_are_more_alike_than_strangers(seen):
    found = seen["probes/layer_similarity"]
    near, far = (np.diagonal(found.cka_directions.values, step).mean() for step in (1, 16))
    assert near > 0.9 and far < 0.75
    spans = [float(found.angular_distance.sel(start_layer=8, span=span)) for span in (1, 4, 8, 16)]
    assert spans == sorted(spans)


@pytest.mark.bundled
def test_ends_of_the_bundled_model_matter_most_and_one_token_blinds_plain_cka(seen):
    """ShortGPT: first and last blocks change the stream most. A massive first token makes plain CKA see noise."""
    found = seen["probes/layer_similarity"]
    order = found.block_influence.values.argsort()[::-1]
    assert set(order[:3].tolist()) >= {0, 29}
    middle = {"layer": 14, "other_layer": 26}
    assert float(found.cka.sel(middle)) < 0.3 < 0.5 < float(found.cka_directions.sel(middle)) < 0.9

"""LayerSimilarity against HSIC of explicitly centred Gram matrices and position-by-position angles."""

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
    """Kornblith et al., equations 3 to 5: HSIC(K, L) = tr(K H L H) / (n - 1)^2 with the centring matrix H."""
    count = len(one)
    centring = np.eye(count) - np.full((count, count), 1 / count)
    grams = [x @ x.T for x in (one, other)]

    def hsic(first, second):
        return np.trace(first @ centring @ second @ centring) / (count - 1) ** 2

    return hsic(*grams) / np.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))


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
    """Invariant to rotation, scale and shift; below one for unrelated data; Gram blocks of any size give the same."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(200, 24, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(24, 24, generator=generator))
    other = torch.randn(200, 24, generator=generator)
    found = linear_cka(torch.stack((data, 3 * data @ turn + 7, other)))
    assert float(found[0, 1]) == pytest.approx(1, abs=1e-5)
    assert float(found[0, 2]) == pytest.approx(hsic_cka(data.double().numpy(), other.double().numpy()), abs=1e-5)
    assert float(found[0, 2]) < 0.5


def test_spans_cut_the_table(tiny, text_ids):
    model = tiny("llama")
    whole, part = (similarity(model, text_ids, LayerSimilarity(spans=spans)) for spans in (None, 2))
    assert part.span.values.tolist() == [1, 2]
    np.testing.assert_array_equal(part.angular_distance, whole.angular_distance.sel(span=[1, 2]))


def test_one_token_has_angles_but_no_variation(tiny):
    found = similarity(tiny("llama"), [7], LayerSimilarity())
    assert found.cka.isnull().all() and found.input_output_cosine.notnull().all()


@pytest.mark.bundled
def test_neighbours_in_the_bundled_model_are_more_alike_than_strangers(seen):
    found = seen["probes/layer_similarity"]
    near, far = (np.diagonal(found.cka_directions.values, step).mean() for step in (1, 16))
    assert near > 0.95 and far < 0.75
    spans = [float(found.angular_distance.sel(start_layer=8, span=span)) for span in (1, 4, 8, 16)]
    assert spans == sorted(spans)


@pytest.mark.bundled
def test_ends_of_the_bundled_model_matter_most_and_one_token_blinds_plain_cka(seen):
    """ShortGPT: first and last blocks change the stream most. A massive first token makes plain CKA see nothing."""
    found = seen["probes/layer_similarity"]
    order = found.block_influence.values.argsort()[::-1]
    assert set(order[:3].tolist()) >= {0, 29}
    middle = {"layer": 14, "other_layer": 26}
    assert float(found.cka.sel(middle)) > 0.99 > 0.9 > float(found.cka_directions.sel(middle))

"""Steps as arrays and sums."""

import numpy as np
import pytest

from workbench.engine.step import Step
from workbench.studies.facts import (
    drafted,
    drafts_dataset,
    drafts_of_many,
    layers_of_many,
    models_of,
    speed,
    steps_of_many,
    sums,
    text_of_many,
)


def step(index=0, tokens=(7,), drafted=0, accepted=0, layers=(0, 1), read=(4.0, 6.0), kept=(4, 6), **more):
    phase = "decode" if index else "prefill"
    facts = {"experts": (), "model": "large", "forwards": 1, "seconds": 0.5, "draft_seconds": 0.1, "flops": 100}
    facts |= {"bytes": 10, "cache_bytes": 64, "entropy": None, **more}
    return Step(index, phase, tokens, drafted, accepted, layers, read, kept, **facts)


RUN = [
    step(read=(2.0, 3.0)),
    step(1, (8, 9, 5), 4, 2, cache_bytes=96),
    step(2, (6,), 3, 0, (1,), (9.0,), (4, 8), model="small", entropy=1.5),
]


def test_sums():
    found = sums(RUN)
    assert found["new_tokens"] == 5 and found["forwards"] == 3
    assert found["drafted"] == 7 and found["accepted"] == 2
    assert found["mean_accepted_tokens"] == 4 / 2, "both decode steps' tokens, the prefill's not"
    assert found["accepted_per_forward"] == 2 / 2, "of the two forwards that verified, the prefill's not"
    assert found["layers_per_token"] == 1.0
    assert found["keys_kept"] == 6.0
    assert found["keys_read"] == pytest.approx((4 + 6 + 9) / 3)
    assert found["cache_bytes_peak"] == 96
    assert found["flops"] == 300 and found["bytes"] == 30
    assert found["draft_seconds"] == pytest.approx(0.3)


def test_steps_that_verify_nothing_count_as_steps_and_not_as_verification():
    found = sums([*RUN, step(3, (4,)), step(4, (3,))])
    assert found["mean_accepted_tokens"] == 6 / 4 and found["accepted_per_forward"] == 1.0
    assert np.isnan(sums([step(), step(1)])["accepted_per_forward"])
    assert np.isnan(sums(RUN[:1])["mean_accepted_tokens"])


def test_speed_leaves_the_prefill_out():
    steps = [step(seconds=8.0), step(1, (8, 9, 5), seconds=0.5), step(2, seconds=1.5)]
    assert speed(steps) == (2.0, 8.0)
    assert np.isnan(speed(steps[:1])[0]) and np.isnan(speed([])).all()


def test_a_prefill_alone_counts_its_own_keys_and_nothing_is_nan():
    assert sums(RUN[:1])["keys_read"] == 2.5
    assert np.isnan(sums([])["layers_per_token"]) and sums([])["new_tokens"] == 0


def test_steps_are_padded_and_models_are_places():
    models = models_of([RUN])
    assert models == ["large", "small"]
    found = steps_of_many([[RUN, []], [RUN[:1], RUN[:2]]], models)
    assert found["tokens"].values.tolist() == [[[1, 3, 1], [-1, -1, -1]], [[1, -1, -1], [1, 3, -1]]]
    assert found["model"].values[0, 0].tolist() == [0, 0, 1]
    assert found["layers"].values[0, 0].tolist() == [2, 2, 1]
    assert np.isnan(found["seconds"].values[1, 0, 1:]).all()
    assert found["keys_read"].values[0, 0].tolist() == [2.5, 5.0, 9.0]
    assert found["entropy"].values[0, 0, 2] == 1.5 and np.isnan(found["entropy"].values[0, 0, 0])


def test_tokens_say_which_step_made_them_and_which_were_drafted():
    found = text_of_many([[RUN, []]])
    assert found["id"].values[0].tolist() == [[7, 8, 9, 5, 6], [-1] * 5]
    assert found["step"].values[0, 0].tolist() == [0, 1, 1, 1, 2]
    assert found["accepted_draft"].values[0, 0].tolist() == [0, 1, 1, 0, 0]


def test_layers_say_how_often_they_ran_and_what_they_read():
    looped = step(1, layers=(0, 1, 1), read=(4.0, 6.0, 8.0))
    found = layers_of_many([[[RUN[0], looped, RUN[2]]]], 3)
    assert found["passes"].values[0, 0].tolist() == [[1, 1, 0], [1, 2, 0], [0, 1, 0]]
    assert found["keys_read"].values[0, 0, 1, :2].tolist() == [4.0, 7.0]
    assert np.isnan(found["keys_read"].values[0, 0, 2, 0])
    assert found["keys_kept"].values[0, 0, 2, :2].tolist() == [4, 8]


def test_a_larger_second_model_widens_the_layers():
    wide = step(1, layers=(0, 4), kept=(1, 2, 3, 4, 5))
    assert layers_of_many([[[RUN[0], wide]]], 2).sizes["layer"] == 5


def test_nothing_at_all_keeps_its_dims():
    assert dict(steps_of_many([[[]]], ["m"]).sizes) == {"run": 1, "prompt": 1, "step": 0}
    assert dict(text_of_many([[[]]]).sizes) == {"run": 1, "prompt": 1, "token": 0}


def test_drafted_tokens_are_a_long_table_with_their_depths():
    tree = step(1, nodes=((8, -1, True, 0.5), (9, -1, False, None), (5, 0, True, 0.25), (6, 2, False, 1.0)))
    found = drafts_of_many([[[RUN[0]], [RUN[0], tree]], [[RUN[0], step(1, nodes=((4, -1, False, None),))], []]])
    columns = {name: found[name].values.tolist() for name in ("run", "prompt", "step", "token", "parent", "kept")}
    assert columns == {
        "run": [0, 0, 0, 0, 1],
        "prompt": [1, 1, 1, 1, 0],
        "step": [1] * 5,
        "token": [8, 9, 5, 6, 4],
        "parent": [-1, -1, 0, 2, -1],
        "kept": [1, 0, 1, 0, 0],
    }
    assert found["depth"].values.tolist() == [1, 1, 2, 3, 1]
    np.testing.assert_array_equal(found["confidence"], [0.5, np.nan, 0.25, 1.0, np.nan])
    assert drafted(found) == {4, 5, 6, 8, 9}
    assert all(found[name].attrs["units"] and found[name].attrs["long_name"] for name in found.data_vars)


def test_a_run_without_drafts_has_the_table_and_no_rows():
    found = drafts_dataset(RUN)
    assert found.sizes["node"] == 0 and drafted(found) == set()
    assert list(found) == list(drafts_of_many([[[step(1, nodes=((4, -1, False, None),))]]]))

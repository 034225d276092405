"""What tests of techniques share: prompts of random tokens, the facts of a run, and whether a model is as it was."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
import torch

from workbench.engine import generate
from workbench.errors import SettingError

CLOCK = ("seconds", "draft_seconds", "verify_seconds", "policy_seconds")


def random_tokens(length, seed=1):
    """Token ids that every tiny model has and none of which ends a text."""
    return torch.randint(3, 96, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def tokens_of(steps):
    return [token for step in steps for token in step.tokens]


def facts(step):
    """Everything a step says but what the clock says."""
    return {name: value for name, value in dataclasses.asdict(step).items() if name not in CLOCK}


def run(model, prompt, techniques=(), new=24, **options):
    """All steps of a run; the test is skipped with the technique's own reason where it does not fit the model."""
    with applicable():
        return list(generate(model, prompt, list(techniques), max_new_tokens=new, stop_tokens=(), **options))


class applicable:
    """Skip the test where a technique refuses the model, and say why."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, SettingError):
            pytest.skip(f"does not apply: {error}")


def checksum(model):
    """SHA-256 over the values of every parameter and buffer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.hf.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hooks(model):
    """How many hooks hang on the transformers model."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.hf.modules())

"""A head on a draft model that says how likely the token it has just read is to be accepted.

Source
------
Huang, Guo, Wang, SpecDec++: Boosting Speculative Decoding via Adaptive Candidate Lengths, 2024, arXiv 2405.19715.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import artifacts
from workbench.errors import ArtifactError, SettingError
from workbench.models import Model

NAME = "acceptance_head"


class AcceptanceHead(nn.Module):
    """Residual blocks and one linear unit over a draft model's features.

    Parameters
    ----------
    width : int
        Of the draft model's residual stream.
    depth : int
        Residual blocks, each ``x + silu(linear(x))``.
    """

    def __init__(self, width: int, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.out = nn.Linear(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Log-odds [...] that a drafted token is accepted, given that those before it are.

        Parameters
        ----------
        hidden : Tensor [..., width]
            Residual stream of that token, after the draft model's last block and before its final norm.
        """
        x = hidden.float()
        # The residual stream grows along the layers by orders of magnitude, and differently from model to model.
        x = F.rms_norm(x, x.shape[-1:])
        for block in self.blocks:
            x = x + F.silu(block(x))
        return self.out(x)[..., 0]

    @property
    def flops(self) -> int:
        """Floating-point operations for one token."""
        return 2 * sum(parameter.numel() for parameter in self.parameters())


def acceptance_head(main: Model, drafter: Model, weights: str = "bundled", depth: int = 3) -> AcceptanceHead:
    """The head for ``drafter``, which drafts for ``main``.

    Parameters
    ----------
    main, drafter : Model
    weights : str
        ``bundled``: the one trained for the distilled draft model of ``main``; ``untrained``: random numbers of a fixed
        seed; else the path of a ``.safetensors`` file.
    depth : int
        Of an untrained one.

    Raises
    ------
    SettingError
        If there is none, or it does not fit.
    """
    if weights == "untrained":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            head = AcceptanceHead(drafter.anatomy.width, depth)
        return head.requires_grad_(False).eval().to(drafter.device)
    tensors, _ = artifacts.load(NAME, main, weights)
    if weights == "bundled" and drafter.draft_vocabulary is None:
        raise SettingError(
            f"the {NAME} of {main.name} is for its distilled draft model, not for {drafter.name}: "
            f"set model=distilled, or train one with workbench train {NAME}"
        )
    head = AcceptanceHead(drafter.anatomy.width, sum(name.endswith("weight") for name in tensors) - 1)
    expected = {name: tensor.shape for name, tensor in head.state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ArtifactError(f"the {NAME} does not fit {drafter.name}, whose width is {drafter.anatomy.width}")
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return head.requires_grad_(False).eval().to(drafter.device)

"""The single-token step, compiled: everything between two attentions as one kernel.

Attention and the cache stay outside, so eviction, selection and switching work unchanged. Layers of the same structure
share one compiled function, since their weights are its arguments. Compiling takes some seconds once per model and is
reported; where it fails (no C++ compiler, say) the plain steps run and the reason is kept.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from workbench.models.anatomy import Anatomy
from workbench.models.block import Block
from workbench.models.rotate import Rope
from workbench.models.variant import multiplied
from workbench_kernels.private_folder import is_private, private_folder

_FOLDER, _HEADERS = "TORCHINDUCTOR_CACHE_DIR", "cpp_cache_precompile_headers"
_KNOWN: WeakKeyDictionary[Anatomy, CompiledSteps] = WeakKeyDictionary()


class CompiledSteps:
    """Compiled ``leave`` and ``enter`` of neighbouring blocks, for one token.

    Attributes
    ----------
    warm_up_seconds : float
        Wall clock that compiling took.
    failure : str
        Why nothing was compiled; empty if all is well.
    """

    def __init__(self, anatomy: Anatomy) -> None:
        self._blocks = [multiplied(block, _sum_of_products) for block in anatomy.blocks]
        self.warm_up_seconds = 0.0
        self.failure = ""
        try:
            self._between = torch.compile(_leave_and_enter, dynamic=False, options=_keep_to_ourselves())
        except OSError as error:
            self.failure = str(error)
            return
        self._warm_up(anatomy)

    def usable(self, index: int, upcoming: int | None) -> bool:
        """Whether the step from one block to the next is compiled: the first is dense, both attend, and compiling
        worked."""
        if self.failure or upcoming is None or self._blocks[index].router is not None:
            return False
        return not (self._blocks[index].mixer.recurrent or self._blocks[upcoming].mixer.recurrent)

    def leave_and_enter(
        self, index: int, upcoming: int, x: Tensor, attended: Tensor, ropes: dict[str, Rope]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Residual stream after block ``index``, and queries, keys and values of block ``upcoming``."""
        block, following = self._blocks[index], self._blocks[upcoming]
        after, query, key, value = self._between(block, following, x, attended, ropes.get(following.rope_kind))
        return after, (query, key, value)

    @torch.inference_mode()
    def _warm_up(self, anatomy: Anatomy) -> None:
        start = time.perf_counter()
        position = torch.zeros(1, dtype=torch.long, device=anatomy.device)
        ropes = anatomy.rope(position)
        x = anatomy.embed(position[None], position)
        try:
            for index in range(len(self._blocks) - 1):
                if self.usable(index, index + 1):
                    block = self._blocks[index]
                    attended = x.new_zeros(1, block.heads, 1, block.head_dim)
                    self.leave_and_enter(index, index + 1, x, attended, ropes)
        except Exception as error:  # the compiler raises whatever its backends raise
            self.failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        self.warm_up_seconds = time.perf_counter() - start


def _keep_to_ourselves() -> dict[str, Any]:
    """Let torch keep what it compiles in the user's own cache folder, and return the compiler's options for that.

    What lies in torch's folder is loaded and unpickled. Its default is a name in the temporary directory that anybody
    can guess and make first; ``TORCHINDUCTOR_CACHE_DIR`` says another, is read at every compilation, and is set by
    torch itself at the first. One that was chosen stays. Headers are kept in the default folder whatever the variable
    says: where that is another user's, they are not.

    Raises
    ------
    OSError
        If there is no folder that is the user's alone.
    """
    from torch._inductor import config
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    guessable = Path(default_cache_dir())
    if os.environ.get(_FOLDER, str(guessable)) == str(guessable):
        os.environ[_FOLDER] = str(private_folder("compiled"))
    with contextlib.suppress(FileExistsError):
        guessable.mkdir(mode=0o700)
    return {} if is_private(guessable) or not hasattr(config, _HEADERS) else {_HEADERS: False}


def compiled_steps(anatomy: Anatomy) -> CompiledSteps:
    """The compiled steps of a model; compiled at the first call, kept as long as the model lives."""
    if anatomy not in _KNOWN:
        _KNOWN[anatomy] = CompiledSteps(anatomy)
    return _KNOWN[anatomy]


def _leave_and_enter(
    block: Block, following: Block, x: Tensor, attended: Tensor, rope: Rope | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    after = block.leave(x, attended)
    return (after, *following.enter(after, rope))


def _sum_of_products(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """One row times a weight as a reduction, which the compiler fuses with what stands before it."""
    product = (weight.float() * x.float().view(1, -1)).sum(-1).to(x.dtype).view(1, 1, -1)
    return product if bias is None else product + bias

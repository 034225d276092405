"""Every kernel as it is compiled for each device that the project means to run on. No device is needed for that.

A `Specimen` is one way to compile a kernel: argument types and constants. The compile check in ``tests/kernels``
compiles each specimen for each of `TARGETS`. A new kernel adds one entry to `SPECIMENS`.
"""

import importlib
from dataclasses import dataclass, field
from typing import Any

TARGETS: dict[str, tuple[str, int | str, int]] = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
}
"""Name of a target, and its backend, architecture and threads per warp."""


@dataclass(frozen=True)
class Specimen:
    """One way to compile one kernel.

    Attributes
    ----------
    name : str
        Unique, readable in a test report.
    kernel : str
        ``module:function``, so that listing the specimens imports no Triton.
    signature : dict
        Argument name to Triton type: ``*bf16``, ``i32``, ``fp32``, … Arguments found in neither dict are an error.
    constants : dict
        Argument name to its value at compile time; None stands for a tensor that is not given.
    aligned : tuple of str
        Integer arguments that are multiples of 16 in practice; pointers always are.
    warps : int
        Warps per program.
    """

    name: str
    kernel: str
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...] = field(default=())
    warps: int = 4

    def compile(self, target: str) -> Any:
        """Compile for one of `TARGETS`; Triton's compiled kernel, with ``asm`` and ``metadata``.

        Raises
        ------
        ValueError
            If the specimen does not name exactly the kernel's arguments.
        """
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        module, _, function = self.kernel.partition(":")
        kernel = getattr(importlib.import_module(module), function)
        named = set(self.signature) | set(self.constants)
        if named != set(kernel.arg_names) or len(named) != len(self.signature) + len(self.constants):
            difference = sorted(named.symmetric_difference(kernel.arg_names))
            raise ValueError(f"Specimen {self.name!r} and its kernel differ in {', '.join(difference) or 'a repeat'}.")
        signature = {name: self.signature.get(name, "constexpr") for name in kernel.arg_names}
        divisible = [
            place for place, (name, kind) in enumerate(signature.items()) if kind[0] == "*" or name in self.aligned
        ]
        source = ASTSource(
            kernel, signature, self.constants, {(place,): [["tt.divisibility", 16]] for place in divisible}
        )
        return triton.compile(
            source, target=GPUTarget(*TARGETS[target]), options={"num_warps": self.warps, "enable_fp_fusion": True}
        )


def _unembed_statistics(number: str, full: bool, top_k: int) -> Specimen:
    """The unembedding statistics for weights of one number format, with all options or with none."""
    tensors = {name: f"*{number}" for name in ("rows_pointer", "weight_pointer")}
    results = {name: "*fp32" for name in ("log_sum_exp_pointer", "mean_pointer", "target_logit_pointer")}
    sizes = {name: "i32" for name in ("row_count", "vocabulary", "width", "row_stride", "weight_stride", "part_tokens")}
    options = {"bias_pointer": f"*{number}", "target_pointer": "*i64"}
    return Specimen(
        name=f"unembed_statistics-{number}-{'full' if full else 'bare'}-top{top_k}",
        kernel="workbench_kernels.unembed_statistics.kernel:partial_statistics",
        signature={
            **tensors, **results, **sizes, **(options if full else {}),
            "keys_pointer": "*i64", "ahead_pointer": "*i32", "scale": "fp32", "softcap": "fp32",
        },
        constants={
            **({} if full else dict.fromkeys(options)),
            "HAS_BIAS": full, "HAS_TARGET": full, "HAS_SOFTCAP": full, "UPCAST": False,
            "TOP_K": top_k, "SLOTS": 1 << (top_k - 1).bit_length(),
            "BLOCK_ROWS": 64, "BLOCK_VOCABULARY": 128, "BLOCK_WIDTH": 32,
        },
        aligned=("width", "row_stride", "weight_stride", "part_tokens"),
        warps=8,
    )  # fmt: skip


def _tree_attention(number: str, head_dim: int, width: int, rows: int, keys: int) -> Specimen:
    """The reading of the cache under a tree's mask, in blocks of `rows` and `keys` as the launcher chooses them."""
    tensors = {f"{name}_pointer": f"*{number}" for name in ("query", "keys", "values")}
    results = {"visible_pointer": "*u8", "weighted_pointer": "*fp32", "log_total_pointer": "*fp32"}
    sizes = {name: "i32" for name in ("rows", "tokens", "held", "kv_heads", "part_keys")}
    strides = tuple(
        f"{name}{kind}_stride" for name in ("query", "key", "value") for kind in ("_batch", "_head", "")
    )  # fmt: skip
    return Specimen(
        name=f"tree_attention-{number}-{head_dim}",
        kernel="workbench_kernels.tree_attention.kernel:partial_attention",
        signature={**tensors, **results, **sizes, **dict.fromkeys(strides, "i32"), "scale": "fp32"},
        constants={
            "UPCAST": False, "HEAD_DIM": head_dim, "BLOCK_WIDTH": width, "BLOCK_ROWS": rows, "BLOCK_KEYS": keys,
        },
        aligned=("part_keys", *strides),
    )  # fmt: skip


def _tree_attention_merge(number: str, head_dim: int, width: int) -> Specimen:
    """The merging of the parts of a cache into the result."""
    return Specimen(
        name=f"tree_attention_merge-{number}-{head_dim}",
        kernel="workbench_kernels.tree_attention.kernel:merge_parts",
        signature={
            "weighted_pointer": "*fp32", "log_total_pointer": "*fp32", "out_pointer": f"*{number}", "parts": "i32",
        },
        constants={"HEAD_DIM": head_dim, "BLOCK_WIDTH": width, "BLOCK_PARTS": 16},
        warps=2,
    )  # fmt: skip


SPECIMENS: list[Specimen] = [
    _unembed_statistics("bf16", full=True, top_k=5),
    _unembed_statistics("fp16", full=False, top_k=1),
    _unembed_statistics("fp32", full=True, top_k=32),
    _tree_attention("bf16", 64, 64, rows=64, keys=64),
    _tree_attention("fp16", 256, 256, rows=64, keys=32),
    _tree_attention("fp32", 80, 128, rows=16, keys=32),
    _tree_attention("fp32", 128, 128, rows=64, keys=32),
    _tree_attention_merge("bf16", 64, 64),
    _tree_attention_merge("fp32", 80, 128),
]
"""What the compile check compiles."""

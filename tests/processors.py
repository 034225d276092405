"""What the tests of compiled kernels share."""

TAKEN_AWAY = {
    "this processor": (),
    "no bfloat16 instructions": ("-mno-avx512bf16",),
    "no AVX-512": ("-mno-avx512f", "-mno-avx512bf16"),
    "no AVX2": ("-mno-avx2", "-mno-avx512f", "-mno-avx512bf16"),
}
"""Flags that take instructions away, so that the paths of other processors run on this one."""

"""Operations that a probe or a technique spends its time in, each with a plain-torch twin and a Triton kernel.

Importing this package imports nothing; an op's torch paths need torch alone, and Triton is imported when a kernel is
about to run. Every op says which backend ran, see `workbench_kernels.dispatch`.

How an op is added:

1. A folder ``workbench_kernels/<op>/`` with ``reference.py`` (the definition, obvious and slow, any dtype),
   ``kernel.py`` (the Triton kernel and its launcher, at most 200 lines, block sizes passed in, outputs filled with NaN
   before the launch; no jaxtyping here, as its import hook would decorate the kernels) and ``__init__.py`` (the public
   function: checks, `choose_backend`, the result that names the backend). A fast torch path goes into a file beside.
2. One entry in ``SPECIMENS`` of ``workbench_kernels/specimen.py``: the compile check then compiles the kernel for
   sm_80, sm_90, sm_100 and gfx942 without a device.
3. ``tests/kernels/test_<op>.py`` for what runs in plain torch and ``tests/kernels/interpreted_<op>.py`` for the kernel
   in Triton's interpreter, against the reference at sizes 1, BLOCK - 1, BLOCK, BLOCK + 1 and 3 BLOCK + 7.

Interpreting and compiling exclude each other in one process: ``tests/kernels/test_separate_processes.py`` runs all
``interpreted_*.py`` in one child process and ``compiled_*.py`` in another, and reports every case of theirs as its own.
The interpreter's ``tl.dot`` is wrong for bfloat16 and sums float16 in float16: kernels take a constant UPCAST, true
under the interpreter, and turn both operands to float32 first.
"""

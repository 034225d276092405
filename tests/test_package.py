"""The public names."""

import subprocess
import sys

import pytest

import workbench


def test_every_public_name_is_there():
    for name in workbench.__all__:
        assert getattr(workbench, name) is not None
    assert dir(workbench) == sorted(workbench.__all__)
    for name in ("load", "observe", "generate", "compare", "run"):
        assert callable(getattr(workbench, name))
    assert workbench.techniques.PromptLookup.name == "prompt_lookup"
    assert workbench.models.FAMILIES and workbench.cost.__name__ == "workbench.cost"


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = workbench.no_such_name
    assert not hasattr(workbench, "_private")


def test_each_name_comes_alone_in_a_fresh_process():
    code = (
        "import sys, workbench\n"
        "assert not {'torch', 'numpy', 'xarray', 'pandas'} & set(sys.modules)\n"
        "assert workbench.__version__[0].isdigit()\n"
        "workbench.trace\n"
        "assert 'torch' not in sys.modules\n"
        "workbench.compare, workbench.Study\n"
        "assert workbench.compare.__module__ == 'workbench.studies.compare'\n"
        "assert workbench.observe is not None and workbench.generate.__name__ == 'generate'\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=300)

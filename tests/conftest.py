"""What an old onnxruntime cannot run is no failure of this project: such a test is skipped, and says so."""

from __future__ import annotations

import re

import onnxruntime
import pytest

NEWEST = (1, 31)  # with this release and later ones nothing is skipped
LACKS = re.compile(
    r"Could not find an implementation for|guarantees\* support for models stamped with official"
    r"|Non-zero status code returned while running|Exception during initialization"
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except Exception as error:
        release = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
        lacking = LACKS.search(f"{error} {error.__cause__}") if release < NEWEST else None
        if lacking is None:
            raise
        pytest.skip(f"onnxruntime {onnxruntime.__version__}: {lacking[0]} ...")

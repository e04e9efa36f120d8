"""What differs from the paper's way: which choices go together, and what has to be measured for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from pfa_onnx.errors import UsageError
from pfa_onnx.options import DataOptions
from pfa_onnx.recipe import Couple, Curve, Divergence, Method, Select, Shrink
from pfa_onnx.responses import Pool, Tap

_KNOWN: Mapping[str, tuple[Any, ...]] = {
    "select": get_args(Select),
    "divergence": get_args(Divergence),
    "mapping": get_args(Curve),
    "couple": get_args(Couple),
    "shrink": get_args(Shrink),
    "pool": get_args(Pool),
    "tap": get_args(Tap),
}


def check_method(method: Method) -> None:
    """Raise UsageError for choices that do not exist, or that the method makes no use of."""
    for name in ("select", "divergence", "mapping", "couple", "shrink"):
        _check_known(name, getattr(method, name))
    for name in ("divergence", "mapping"):
        if name in method.variants and method.name != "kl":
            raise UsageError(
                f"--{name} {method.variants[name]} is about what --kl asks for, and --{method.name} is given",
                at=f"--{name} and --{method.name}",
                fix=f"leave --{name} out, or use --kl",
            )
    if method.shrink != "none" and method.name == "uniform":
        what = f"--shrink {method.shrink} changes the spectrum, which --uniform does not look at"
        raise UsageError(what, at="--shrink and --uniform", fix="leave --shrink out, or use another method")


def with_what_is_needed(data: DataOptions, method: Method) -> DataOptions:
    """Return the options that measure what this method decides by; raises UsageError as `check_method` does."""
    check_method(method)
    for name in ("pool", "tap"):
        _check_known(name, getattr(data.responses, name))
    inputs = data.responses.inputs or method.select == "wanda"
    sums = data.responses.sums or method.couple == "stream"
    return replace(data, responses=replace(data.responses, inputs=inputs, sums=sums))


def _check_known(name: str, value: object) -> None:
    if value not in _KNOWN[name]:
        known = ", ".join(map(str, _KNOWN[name]))
        raise UsageError(f"there is no {name} {value!r}", at=f"--{name}", fix=f"choose one of {known}")

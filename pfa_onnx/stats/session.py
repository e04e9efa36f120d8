"""Run models: the only file that touches onnxruntime.

onnxruntime lists providers it cannot start and falls back to the CPU without saying so, so the truth is
what a session reports after it was made. CUDA is set up for repeatable float32: no TF32, no timing races.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pfa_onnx.errors import ModelError, UsageError
from pfa_onnx.printable import is_text
from pfa_onnx.recipe import InputSpec
from pfa_onnx.stats.prefetch import prefetch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pfa_onnx.stats.data import Batch

__all__ = [
    "Providers",
    "Runner",
    "Values",
    "batch_size_for",
    "expects_cuda",
    "fixed_batch",
    "load_runtime",
    "nvidia_device",
    "pad",
    "prefetch",
    "run_padded",
    "set_threads",
    "unpadded",
]

Providers = Literal["auto", "cpu", "cuda"]
Array = npt.NDArray[Any]
Values = dict[str, Any]  # onnxruntime's OrtValue by name: tensors that may lie on the device

_process: dict[str, int] = {}  # what holds for every model of this process

_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_SILENT = 4  # onnxruntime's severities: 0 verbose .. 3 error, 4 fatal; errors also arrive as exceptions
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_CUDA_OPTIONS = {
    "use_tf32": "0",  # ten bits of mantissa would drown the proof's 1e-4
    "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE races kernels: slow for every shape, and not repeatable
}
_DTYPES = {"float": "float32", "double": "float64", "string": "object"} | {
    name: name for name in ("float16", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
}
LONGEST = 3600.0  # seconds of a model's first run; a Loop may be written that never ends
_FULL = re.compile(r"allocate memory|out of memory|bad_alloc|bad allocation|BFCArena")
_EXPORT = "export the model again, and check that onnxruntime runs it"
_FEEDABLE = "give the model tensors of ordinary types as inputs"
_CUDA_FIX = "pip install pfa-onnx[cuda], or use --providers cpu"


class Runner:
    """A loaded model.

    model: serialized bytes, or a path. external_dir: where its external data lies, needed with bytes.
    threads: for one operator; None = onnxruntime's choice. early_shapes: run Shape as soon as its input is there, which
    may then be freed: without it, a model that gives every tensor's shape keeps every tensor to the end.
    at: the file that errors name, where it is not the path.
    provider: "cpu" or "cuda", what really runs. without_cuda: why it is not cuda, although "auto" found a device.
    Raises ModelError when the model does not load, or CUDA is asked for and does not start.
    """

    def __init__(
        self,
        model: bytes | Path,
        *,
        providers: Providers = "auto",
        external_dir: Path | None = None,
        threads: int | None = None,
        early_shapes: bool = False,
        at: Path | None = None,
    ) -> None:
        ort = load_runtime()
        options = ort.SessionOptions()
        options.log_severity_level = _SILENT
        options.use_deterministic_compute = True
        # threads that spin between two runs take the cores of what reads, adds up, or runs another model
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if early_shapes:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        threads = threads or _process.get("threads")
        if threads is not None:
            options.intra_op_num_threads = threads
        named = at or (model if isinstance(model, Path) else None)
        if isinstance(model, Path) and not is_text(model):  # it is given text, and names of files are bytes
            external_dir = model.parent
            model = model.read_bytes()
        if external_dir is not None and is_text(external_dir):
            options.add_session_config_entry(_EXTERNAL_FOLDER, str(external_dir))
        self._at = "the model" if named is None else str(named)
        self._has_run = False
        self._ort = ort
        self._session, self.without_cuda = _start(ort, model, options, providers, self._at)
        self.provider = "cuda" if self._session.get_providers()[0] == _CUDA else "cpu"
        self.inputs = tuple(_spec(arg, self._at) for arg in self._session.get_inputs())
        self.outputs = tuple(arg.name for arg in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array], fetch: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the named outputs (None = all), computed on all rows of the feeds; raises ModelError."""
        names = list(self.outputs if fetch is None else fetch)
        with self._watched() as options, self._blame():
            results = self._session.run(names, dict(feeds), options)
        return dict(zip(names, results, strict=True))

    def upload(self, feeds: Mapping[str, Array]) -> Values:
        """Copy arrays to where the model runs; another thread may do that while a batch runs. Raises ModelError."""
        with self._blame():
            return {name: self._there(array) for name, array in feeds.items()}

    def run_there(self, values: Values, fetch: Sequence[str] | None = None) -> Values:
        """As `run`, from values that were uploaded to results that stay there; they are complete on return."""
        names = list(self.outputs if fetch is None else fetch)
        with self._watched() as options, self._blame():
            binding = self._session.io_binding()
            for name, value in values.items():
                binding.bind_ortvalue_input(name, value)
            for name in names:
                binding.bind_output(name, self.provider, 0)
            self._session.run_with_iobinding(binding, options)
            return dict(zip(names, binding.get_outputs(), strict=True))

    def _there(self, array: Array) -> Any:
        where = "cpu" if array.dtype.hasobject else self.provider  # no device takes strings
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), where, 0)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[Any]:
        """Give options for one run; the first one is stopped when it takes far too long. Raises ModelError."""
        if self._has_run:
            yield None
            return
        options = self._ort.RunOptions()
        timer = threading.Timer(LONGEST, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            yield options
        except ModelError as error:
            if not options.terminate:
                raise
            what = f"the model was stopped: one run took longer than {LONGEST:,.0f} seconds"
            raise ModelError(what, at=self._at, fix="look for a Loop that does not end") from error
        finally:
            timer.cancel()
        self._has_run = True

    @contextlib.contextmanager
    def _blame(self) -> Iterator[None]:
        """Turn what onnxruntime raises into a ModelError; its classes share no base but Exception."""
        try:
            yield
        except Exception as error:
            what = _trim(error)
            if _is_full(error):
                fix = "use a smaller --batch-size"
                raise ModelError(f"out of memory while the model runs: {what}", at=self._at, fix=fix) from error
            raise ModelError(f"the model does not run: {what}", at=self._at, fix=_EXPORT) from error


def set_threads(threads: int) -> None:
    """Give every model that this process loads from now on so many threads: a worker beside others has one core."""
    _process["threads"] = threads


def run_padded(runner: Runner, batch: Batch, fetch: Sequence[str] | None, batch_size: int) -> dict[str, Any]:
    """Run a batch that may be smaller than `batch_size`, and return outputs for its samples only.

    A model with a fixed batch dimension, and CUDA, which plans anew for every shape, get the last sample
    repeated up to `batch_size`. Outputs whose first axis is a multiple of it lose those rows again.
    """
    if batch.count >= batch_size or not (runner.provider == "cuda" or fixed_batch(runner.inputs)):
        return runner.run(batch.feeds, fetch)
    found = runner.run(pad(batch, batch_size), fetch)
    return {name: unpadded(value, batch.count, batch_size) for name, value in found.items()}


def pad(batch: Batch, batch_size: int) -> Mapping[str, Array]:
    """Return the feeds with the last sample repeated up to `batch_size`."""
    missing = batch_size - batch.count
    if missing <= 0:
        return batch.feeds
    return {name: np.concatenate([one, np.repeat(one[-1:], missing, axis=0)]) for name, one in batch.feeds.items()}


def unpadded(value: Any, count: int, batch_size: int) -> Any:
    """Return of an output what belongs to the first `count` samples of the batch."""
    # windows and heads are folded into the first axis sample by sample, hence the multiple
    if isinstance(value, list) and len(value) == batch_size:  # maps of scores
        return value[:count]
    if not isinstance(value, np.ndarray) or not value.ndim or not len(value) or len(value) % batch_size:
        return value
    return value[: len(value) // batch_size * count]


def fixed_batch(inputs: Sequence[InputSpec]) -> int | None:
    """Return the batch size that the inputs are bound to, 1 when they are bound to different ones, or None."""
    fixed = {spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] is not None}
    return None if not fixed else fixed.pop() if len(fixed) == 1 else 1


def batch_size_for(inputs: Sequence[InputSpec], asked: int | None, providers: Providers = "cpu") -> int:
    """Return how many samples to run at once: the model's fixed batch, else `asked`, else a guess.

    The guess is the power of two, 1 to 32, that keeps all inputs below two million numbers: 8 for 3x224x224,
    1 for 3x640x640. Activations are tens of times larger, and larger batches gain little on a CPU. Four times that
    for CUDA, up to 128.
    """
    if asked is not None and asked < 1:
        raise UsageError(f"--batch-size is {asked}", at="--batch-size", fix="give a number of samples, 1 or more")
    bound = fixed_batch(inputs)
    if bound is not None:
        return bound
    if asked is not None:
        return asked
    numbers = sum(_numbers(spec) for spec in inputs)
    more = 4 if expects_cuda(providers) else 1
    return 1 << (max(1, min(32 * more, 2**21 * more // max(1, numbers))).bit_length() - 1)


def _numbers(spec: InputSpec) -> int:
    """Return how many numbers one sample has, with an ordinary extent for each dimension that is not known."""
    dims = list(spec.shape[1:])
    unknown = 224 if len(dims) == 3 else 128  # a picture's side, or a sequence's length
    if dims == [None] * 3:
        dims[0] = 3
    return math.prod(dim or unknown for dim in dims)


# --- onnxruntime ---


def load_runtime() -> Any:
    """Import onnxruntime, silenced; raises ModelError when it is missing or broken."""
    try:
        import onnxruntime as ort  # noqa: PLC0415 - half a second, and --help does not need it

        ort.set_default_logger_severity(_SILENT)
        _ = ort.InferenceSession  # an emptied package still imports
    except (ImportError, AttributeError, OSError) as error:
        raise ModelError(
            f"onnxruntime cannot be used: {error}",
            at="the onnxruntime package",
            fix="run `pfa-onnx doctor`, or pip install --force-reinstall onnxruntime",
        ) from error
    return ort


def nvidia_device() -> bool:
    """Whether an NVIDIA driver is there, found without loading anything."""
    if sys.platform == "win32":
        return Path("C:/Windows/System32/nvcuda.dll").exists()
    return any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu"))


def expects_cuda(providers: Providers) -> bool:
    """Whether a session is likely to run on CUDA; only a session that was made knows."""
    return providers == "cuda" or (
        providers == "auto" and nvidia_device() and _CUDA in load_runtime().get_available_providers()
    )


def _start(ort: Any, model: bytes | Path, options: Any, providers: Providers, at: str) -> tuple[Any, str | None]:
    """Return a session, and why it does not run on the CUDA device that is there."""
    source = str(model) if isinstance(model, Path) else model
    built_in = _CUDA in ort.get_available_providers()
    problem = None
    if expects_cuda(providers):
        problem = _cuda_problem(ort, built_in=built_in)
        if problem is None:
            try:
                session = ort.InferenceSession(
                    source, options, providers=[(_CUDA, _CUDA_OPTIONS), _CPU], enable_fallback=0
                )
            except Exception as error:  # noqa: BLE001 - a model that is broken fails on the CPU too, below
                problem = _trim(error)
            else:
                if session.get_providers()[0] == _CUDA:
                    return session, None
                problem = "the CUDA or cuDNN libraries do not load"
                if providers == "auto":
                    return session, problem
        if providers == "cuda":
            raise ModelError(f"CUDA does not start: {problem}", at=at, fix=_CUDA_FIX)
    try:
        return ort.InferenceSession(source, options, providers=[_CPU], enable_fallback=0), problem
    except Exception as error:
        if _is_full(error):
            fix = "give this process more memory"
            raise ModelError(f"out of memory while the model is loaded: {_trim(error)}", at=at, fix=fix) from error
        raise ModelError(f"onnxruntime cannot load the model: {_trim(error)}", at=at, fix=_EXPORT) from error


def _is_full(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _FULL.search(str(error)) is not None


def _cuda_problem(ort: Any, *, built_in: bool) -> str | None:
    """Load the CUDA libraries of the nvidia-* packages; return what is missing, if anything is for sure."""
    if not built_in:
        return "this onnxruntime has no CUDA provider; it must be the onnxruntime-gpu package, and alone"
    if not nvidia_device():
        return "there is no NVIDIA device"
    # it reports by print, and what it cannot find may still be found by the loader
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.suppress(Exception),
    ):
        ort.preload_dlls()
    return None


def _spec(arg: Any, at: str) -> InputSpec:
    dtype = _DTYPES.get(arg.type.removeprefix("tensor(").removesuffix(")"))
    if dtype is None:  # bfloat16, float8, sequences
        raise ModelError(f"input {arg.name!r} is a {arg.type}, which numpy cannot feed", at=at, fix=_FEEDABLE)
    # some exporters write -1 or 0 for a dimension that is not known
    shape = tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in arg.shape)
    return InputSpec(arg.name, shape, np.dtype(dtype))


def _trim(error: Exception) -> str:
    """Return what onnxruntime says without its codes, its source paths and its C++ signatures."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error))
    text = re.sub(r"\S+\.(?:cc|h|cu|cuh|hpp):\d+ (?:.*?\) (?:const )?(?=\S))?", "", text)
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."

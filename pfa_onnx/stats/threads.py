"""How many threads work: a core each for our own, and one for BLAS and LAPACK beside them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import Iterator


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _thread_pools() -> ThreadpoolController:
    # Looking the libraries up costs a millisecond, setting their limit a microsecond.
    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS and LAPACK on one thread: on a busy machine their spinning threads cost 2 to 150 times.

    The limit is the process's: take it where threads are started, not in each of them.
    """
    with _thread_pools().limit(limits=1, user_api="blas"):
        yield

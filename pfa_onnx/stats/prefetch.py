"""Make the next items in a thread while the current one is used."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

T = TypeVar("T")

_POLL = 0.05  # seconds after which a producer with a full queue looks whether anybody still wants it


def prefetch(iterator: Iterator[T], depth: int = 2) -> Generator[T]:
    """Yield the iterator's items while a thread makes up to `depth` more.

    The iterator's exception is raised at the place where its item would have come. When the consumer stops
    early (close, break, an exception of its own), the thread stops after the item in hand and the iterator
    is closed.
    """
    items: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stop = threading.Event()
    thread = threading.Thread(target=_produce, args=(iterator, items, stop), name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = items.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join()


def _produce(iterator: Iterator[Any], items: queue.Queue[tuple[str, Any]], stop: threading.Event) -> None:
    try:
        for item in iterator:
            if not _put(items, ("item", item), stop):
                break
        else:
            _put(items, ("end", None), stop)
    except BaseException as error:  # noqa: BLE001 - carried over to the consumer's thread
        _put(items, ("error", error), stop)
    finally:
        close = getattr(iterator, "close", None)  # generators hold files and threads
        if close is not None:
            close()


def _put(items: queue.Queue[tuple[str, Any]], entry: tuple[str, Any], stop: threading.Event) -> bool:
    """Wait for room; False when the consumer is gone."""
    while not stop.is_set():
        try:
            items.put(entry, timeout=_POLL)
        except queue.Full:
            continue
        return True
    return False

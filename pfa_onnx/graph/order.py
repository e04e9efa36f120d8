"""An order in which things can be done that wait for each other; none of it is recursive, chains are long."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def in_order(waits: Sequence[Collection[int]]) -> tuple[list[int], list[int]]:
    """Return the positions in an order in which each comes after those that it waits for, and those that are left.

    What is in such an order already stays as it is. Left are the members of a circle, and what waits for one.
    """
    waiting = [len(set(before)) for before in waits]
    behind: list[list[int]] = [[] for _ in waits]
    for position, before in enumerate(waits):
        for earlier in set(before):
            behind[earlier].append(position)
    ready = [position for position, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        position = heapq.heappop(ready)
        order.append(position)
        for later in behind[position]:
            waiting[later] -= 1
            if waiting[later] == 0:
                heapq.heappush(ready, later)
    return order, [position for position, count in enumerate(waiting) if count > 0]


def those_before(last: Item, reads: Callable[[Item], Iterable[Item]]) -> list[Item]:
    """Return everything that `last` depends on, each after what it reads itself, and `last`."""
    order, seen = [], {last}
    path = [(last, iter(reads(last)))]
    while path:
        item, left = path[-1]
        for other in left:
            if other not in seen:
                seen.add(other)
                path.append((other, iter(reads(other))))
                break
        else:
            order.append(item)
            path.pop()
    return order

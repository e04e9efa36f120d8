"""What a rule may declare about its node; `trace.Tracer` and `follow.Follower` act on it, each in its own way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt
import onnx_ir as ir

from pfa_onnx.graph.movement import Marked
from pfa_onnx.recipe import Ints

Array = npt.NDArray[Any]
Use = tuple[int, int]  # (index of the node in execution order, index of its input)


@dataclass(frozen=True)
class Factor:
    """How a constant operand is cut: its labels, broadcastable to its shape, and what they are to it.

    role: "read" for what a contraction sums over (the proof zeroes these), "made" for the channels a
    layer produces, "along" for parameters that follow an activation.
    """

    ids: Ints
    role: Literal["read", "made", "along"] = "along"


class Declarations(ABC):
    """The vocabulary of the rules."""

    @abstractmethod
    def same(self, one: Ints, other: Ints) -> None:
        """Say that labels are the same, position by position."""

    @abstractmethod
    def freeze(self, ids: Ints, why: str) -> None:
        """Say that labels must stay; the current node is the one that says so."""

    @abstractmethod
    def blocks(self, rows: Ints, *, grouped: bool = False) -> None:
        """Say that every row of [rows, n] must keep equally many, and at least one.

        grouped: what is left of a row must stay in it, as a grouped convolution demands.
        """

    @abstractmethod
    def born(self, i: int, axis: int) -> Ints:
        """Return the labels of constant operand `i` along one axis, which nothing that arrives decides."""

    @abstractmethod
    def grown(self, key: str, count: int) -> Ints:
        """Return labels for `count` positions that the node itself adds, as Pad does."""

    @abstractmethod
    def bind(self, i: int, *factors: Factor) -> None:
        """Say how constant operand `i` is cut."""

    @abstractmethod
    def summed(self, i: int) -> None:
        """Say that activation `i` is summed over along an axis that its labels vary along (for the proof)."""

    @abstractmethod
    def narrowed(self, i: int) -> None:
        """Say that the node's statistics of activation `i` run over the kept channels only (for the proof)."""

    @abstractmethod
    def layer(self, i: int, made: Ints, axis: int) -> None:
        """Say that the node is a layer: its weight is operand `i`, its channels lie along output axis `axis`."""

    @abstractmethod
    def out(self, marked: Marked, k: int = 0, across: Marked | None = None) -> None:
        """Set the labels of output `k`; an outer product of channels has two: a position goes if either does."""

    @abstractmethod
    def bounds(self, i: int, axis: int, positions: Sequence[int]) -> list[int]:
        """Return where the cuts of an axis of input `i` lie now; every piece keeps something."""

    @abstractmethod
    def positions(self, i: int, axis: int, wanted: Ints) -> Ints:
        """Return where the wanted positions along an axis of input `i` lie now, less the removed ones."""

    @abstractmethod
    def reshaped(self, i: int, shape: tuple[int, ...]) -> Marked:
        """Return input `i` reshaped to what was `shape` before anything was removed."""

    @abstractmethod
    def rewrite(self, i: int, wanted: Array) -> None:
        """Say that integer operand `i` must now read `wanted`."""

    @abstractmethod
    def rewrite_attr(self, name: str, wanted: Any) -> None:
        """Say that an attribute must now be `wanted`."""

    @abstractmethod
    def insert_input(self, i: int, array: Array) -> None:
        """Say that input `i`, which is left out, must now be this constant."""

    @abstractmethod
    def steady(self, i: int) -> None:
        """Say that the value of operand `i`, computed from shapes, enters the arithmetic: it may not change."""

    @abstractmethod
    def source(self, value: ir.Value) -> None:
        """Give a tensor that nothing is known of one frozen label."""

    @abstractmethod
    def opaque(self, why: str, k: int | None = None) -> None:
        """Give output `k` (all, when None) one frozen label."""

"""Einsum, and MatMul with a batch of constant matrices: contractions spelled with letters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pfa_onnx.graph import movement
from pfa_onnx.graph.context import Context, Factor
from pfa_onnx.graph.movement import Marked
from pfa_onnx.graph.ops import refuse_inputs, rule
from pfa_onnx.recipe import Ints


@rule("Einsum")
def einsum(c: Context) -> None:
    """Two operands with distinct letters; anything else is left alone."""
    equation = c.attr("equation", "")
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, arrow, out = text.partition("->")
    terms = left.split(",")
    plain = arrow and "." not in text and len(terms) == 2 and all(len(set(t)) == len(t) for t in (*terms, out))
    if not plain or (c.is_constant(0) and c.is_constant(1)):
        refuse_inputs(c, f"'{text}'")
    elif c.is_constant(1):
        contract_constant(c, Letters(terms[0], terms[1], out), x=0, w=1)
    elif c.is_constant(0):
        contract_constant(c, Letters(terms[1], terms[0], out), x=1, w=0)
    else:
        contract_activations(c, Letters(terms[0], terms[1], out))


@dataclass(frozen=True)
class Letters:
    """The axes of a contraction of two operands, one letter each."""

    one: str
    other: str
    out: str

    @property
    def summed(self) -> str:
        """Letters that the result no longer has."""
        return "".join(x for x in dict.fromkeys(self.one + self.other) if x not in self.out)


def contract_constant(c: Context, letters: Letters, *, x: int, w: int) -> None:
    """Contract activation `x` with constant `w`, which may hold one matrix for every index of shared letters."""
    mark = c.mark(x)
    shared = [a for a in letters.one if a in letters.other]
    batch = [a for a in shared if a in letters.out]
    made = [a for a in letters.other if a not in letters.one]
    free = [a for a in letters.one if a not in letters.other]
    summed = [a for a in shared if a not in letters.out]
    vary = [letters.one[a] for a in mark.axes]
    if (
        len(made) > 1
        or any(a not in letters.out for a in (*made, *free))
        or (set(vary) & set(free) and set(vary) & set(summed))
    ):
        refuse_inputs(c, f"'{letters.one},{letters.other}->{letters.out}'")
        return
    if vary and not set(vary) & set(summed):
        if vary[-1] in shared:  # one entry, or one matrix, for every channel
            c.bind(w, Factor(_arranged(c, mark, letters.one, letters.other, keep=shared)))
        _pass(c, mark, letters)
        return
    ids = _arranged(c, mark, letters.one, letters.other, keep=shared)
    born = _born(c, letters, w, batch, made[0]) if made else None
    factors = [Factor(ids, "read")] if born is None else [Factor(born, "made"), Factor(ids, "read")]
    c.bind(w, *factors)
    if born is None:
        c.opaque("is a product without channels of its own")
        return
    if not batch:
        c.layer(w, born.ravel(), axis=letters.out.index(made[0]))
    c.out(_placed(c, born, letters.other, letters.out, [*batch, *made]))


def _born(c: Context, letters: Letters, w: int, batch: list[str], made: str) -> Ints:
    """Return the labels of what the constant makes, in its own axes; every matrix of a batch has its own."""
    shape = c.operand_shape(w)
    if not batch:
        axis = letters.other.index(made)
        return movement.along(c.born(w, axis), axis, len(shape))
    rows = int(np.prod([shape[letters.other.index(a)] for a in batch]))
    labels = c.grown("made", rows * shape[letters.other.index(made)]).reshape(rows, -1)
    c.blocks(labels)
    extents = [shape[i] if a in batch else labels.shape[1] if a == made else 1 for i, a in enumerate(letters.other)]
    order = [a for a in letters.other if a in batch or a == made]
    if order[-1] != made:
        msg = "the made axis of a batch of matrices is not its last"
        raise ValueError(msg)
    return labels.reshape(extents)


def _arranged(c: Context, mark: Marked, have: str, want: str, keep: list[str]) -> Ints:
    """Return labels of an operand in the axes of another; axes outside `keep` must not matter."""
    ids = c.uniform(mark, [a for a in mark.axes if have[a] not in keep])
    extents = {letter: ids.shape[i] for i, letter in enumerate(have)}
    order = [letter for letter in want if letter in have]
    turned = np.transpose(ids, [have.index(a) for a in order] + [i for i, a in enumerate(have) if a not in want])
    return turned.reshape([extents.get(letter, 1) if letter in keep else 1 for letter in want])


def _placed(c: Context, ids: Ints, have: str, out: str, along: list[str]) -> Marked:
    """Return labels that lie in the axes of an operand, and vary along some letters, as labels of the output."""
    shape = c.out_shape()
    order = [a for a in out if a in have]
    turned = np.transpose(ids, [have.index(a) for a in order] + [i for i, a in enumerate(have) if a not in out])
    extents = [ids.shape[have.index(a)] if a in have else 1 for a in out]
    placed = turned.reshape(extents)
    axes = tuple(i for i, a in enumerate(out) if a in along)
    return Marked(placed, tuple(placed.shape[i] if i in axes else n for i, n in enumerate(shape)), axes)


def _pass(c: Context, mark: Marked, letters: Letters) -> None:
    """Labels along letters that are not summed pass."""
    shape = c.out_shape()
    kept = [a for a in letters.out if a in letters.one]
    turned = np.transpose(
        mark.ids, [letters.one.index(a) for a in kept] + [i for i, a in enumerate(letters.one) if a not in letters.out]
    )
    extents = {a: turned.shape[k] for k, a in enumerate(kept)}
    ids = turned.reshape([extents.get(a, 1) for a in letters.out])
    axes = tuple(i for i, a in enumerate(letters.out) if a in letters.one and mark.varies(letters.one.index(a)))
    c.out(Marked(ids, tuple(ids.shape[i] if i in axes else n for i, n in enumerate(shape)), axes))


def contract_activations(c: Context, letters: Letters) -> None:
    """Contract two activations: what is summed over is the same in both."""
    every = letters.out + letters.summed
    marks = [_aligned(c.mark(i), have, every) for i, have in enumerate((letters.one, letters.other))]
    count = len(letters.out)
    if any(x.varies(a) for x in marks for a in range(count, len(every))):
        for x in marks:
            outer = [a for a in range(count) if x.varies(a) and not all(m.shape[a] > 1 for m in marks)]
            c.freeze_along(x, outer, "is summed over by an Einsum of two activations that both vary")
        joined = c.join(marks)
        c.blocks(np.moveaxis(joined.ids, joined.axes[-1], -1))
        c.summed(0)
        c.opaque("is a product of two activations")
        return
    joined = c.join(marks)
    extents = tuple(n for n in joined.shape[:count])
    c.out(Marked(joined.ids.reshape(joined.ids.shape[:count]), extents, joined.axes))


def _aligned(mark: Marked, have: str, every: str) -> Marked:
    """Return an operand over all letters, with extent 1 where it has none."""
    order = [have.index(a) for a in every if a in have]
    ids = np.transpose(mark.ids, order)
    places = [i for i, a in enumerate(every) if a in have]
    ids_shape, shape = [1] * len(every), [1] * len(every)
    for place, axis in zip(places, order, strict=True):
        ids_shape[place], shape[place] = mark.ids.shape[axis], mark.shape[axis]
    axes = tuple(sorted(every.index(have[a]) for a in mark.axes))
    return Marked(ids.reshape(ids_shape), tuple(shape), axes)

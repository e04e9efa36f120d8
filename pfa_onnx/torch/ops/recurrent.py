"""LSTM, GRU and RNN.

torch's own kernels do the work where they mean the same; peepholes, sequences of different lengths, and a GRU that
resets the state before it multiplies it are computed step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pfa_onnx.torch.registry import Function, Node, Untrainable, operator

State = tuple[Tensor, ...]
Cell = Callable[[Tensor, State], State]  # what the inputs add to the gates, the state -> the new state, output first

_USUAL = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
_TORCH_ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # torch's gates by their place in ONNX


def _ways(n: Node) -> int:
    """Return how many directions there are; raises Untrainable for what no reader here computes."""
    ways = 2 if n.attribute("direction", "forward") == "bidirectional" else 1
    if n.attribute("layout", 0):
        raise Untrainable("layout 1")
    if n.attribute("clip") is not None:
        raise Untrainable("clip")
    if n.attribute("input_forget", 0):
        raise Untrainable("coupled input and forget gates")
    given = [str(name).lower() for name in n.attribute("activations") or _USUAL[n.op] * ways]
    if given != _USUAL[n.op] * ways and not (n.op == "RNN" and set(given) == {"relu"}):
        raise Untrainable("activations " + ", ".join(given))
    return ways


@operator("LSTM", trains=(1, 2, 3, 7), host=(4,))
def lstm(n: Node) -> Function:
    def cell(r: Tensor, bias: Tensor | None, peepholes: Tensor | None) -> Cell:
        i_peep, o_peep, f_peep = (None,) * 3 if peepholes is None else peepholes.chunk(3)

        def step(gates: Tensor, state: State) -> State:
            i, o, f, c = torch.addmm(gates, state[0], r.t()).chunk(4, 1)
            if i_peep is not None:
                i, f = i + i_peep * state[1], f + f_peep * state[1]
            new = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(c)
            o = o if o_peep is None else o + o_peep * new
            return torch.sigmoid(o) * torch.tanh(new), new

        del bias
        return step

    return _layer(n, None if n.given(7) else torch.lstm, cell, states=2)


@operator("GRU", trains=(1, 2, 3), host=(4,))
def gru(n: Node) -> Function:
    """Multiply the state first and reset it then, as torch does, or the other way round."""
    late = bool(n.attribute("linear_before_reset", 0))

    def cell(r: Tensor, bias: Tensor | None, peepholes: Tensor | None) -> Cell:
        del peepholes
        size = r.shape[1]
        both, last = r[: 2 * size].t(), r[2 * size :].t()
        shift = 0 if bias is None else bias[2 * size :]

        def step(gates: Tensor, state: State) -> State:
            h = state[0]
            z, s = torch.sigmoid(torch.addmm(gates[:, : 2 * size], h, both)).chunk(2, 1)
            turned = s * (h @ last + shift) if late else (s * h) @ last + shift
            return (torch.lerp(torch.tanh(gates[:, 2 * size :] + turned), h, z),)

        return step

    return _layer(n, torch.gru if late else None, cell, states=1)


@operator("RNN", trains=(1, 2, 3), host=(4,))
def rnn(n: Node) -> Function:
    positive = str((n.attribute("activations") or ["Tanh"])[0]).lower() == "relu"
    activate = torch.relu if positive else torch.tanh

    def cell(r: Tensor, bias: Tensor | None, peepholes: Tensor | None) -> Cell:
        del bias, peepholes
        return lambda gates, state: (activate(torch.addmm(gates, state[0], r.t())),)

    return _layer(n, torch.rnn_relu if positive else torch.rnn_tanh, cell, states=1)


def _layer(n: Node, kernel: Any, cell: Callable[..., Cell], states: int) -> Function:
    """Return what runs a layer by torch's kernel, or by a cell."""
    ways, backward, order = _ways(n), n.attribute("direction", "forward") == "reverse", _TORCH_ORDER[n.op]

    def run(x: Tensor, w: Tensor, r: Tensor, bias: Tensor | None = None, *rest: Tensor | None) -> Any:
        lengths, h, c, peepholes = (*rest, None, None, None, None)[:4]
        zeros = x.new_zeros(ways, x.shape[1], r.shape[2])
        start = [zeros if s is None else s for s in (h, c)[:states]]
        if kernel is not None and (lengths is None or bool((lengths >= x.shape[0]).all())):
            return _by_kernel(kernel, x.flip(0) if backward else x, start, _flat(w, r, bias, order), backward)
        found = []
        for k in range(ways):
            turned = backward or k == 1
            b = None if bias is None else bias[k]
            step = cell(r[k], None if b is None else b[b.shape[0] // 2 :], None if peepholes is None else peepholes[k])
            gates = _gates(n.op, x, w[k], b)
            found.append(_steps(step, gates, tuple(s[k] for s in start), lengths, turned))
        ys, lasts = zip(*found, strict=True)
        return (torch.stack(ys, 1), *(torch.stack(state) for state in zip(*lasts, strict=True)))

    return run


def _flat(w: Tensor, r: Tensor, bias: Tensor | None, order: tuple[int, ...]) -> list[Tensor]:
    """Return the weights as torch's kernels take them: their own order of gates, two biases for each direction."""
    halves = () if bias is None else bias.chunk(2, 1)
    found = []
    for k in range(w.shape[0]):
        for part in (w, r, *halves):
            gates = part[k].chunk(len(order))
            found.append(torch.cat([gates[g] for g in order]))
    return found


def _by_kernel(kernel: Any, x: Tensor, start: list[Tensor], flat: list[Tensor], backward: bool) -> Any:
    ways = start[0].shape[0]
    biases = len(flat) == 4 * ways
    state = start if len(start) > 1 else start[0]
    y, *lasts = kernel(x, state, flat, biases, 1, 0.0, False, ways == 2, False)
    y = y.unflatten(2, (ways, -1)).transpose(1, 2)
    return (y.flip(0) if backward else y, *lasts)


def _gates(op: str, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """Return what the inputs add to the gates at all steps at once; a GRU adds its last part's second bias later."""
    if bias is None:
        return x @ w.t()
    own, other = bias.chunk(2)
    if op == "GRU":
        other = torch.cat([other[: -other.shape[0] // 3], torch.zeros_like(other[-other.shape[0] // 3 :])])
    return x @ w.t() + (own + other)


def _steps(step: Cell, gates: Tensor, state: State, lengths: Tensor | None, backward: bool) -> tuple[Tensor, State]:
    """Run over all steps; at those past the end of a sequence its state stays and its output is 0."""
    found: list[Any] = [None] * gates.shape[0]
    for t in reversed(range(gates.shape[0])) if backward else range(gates.shape[0]):
        new = step(gates[t], state)
        if lengths is None:
            state, found[t] = new, new[0]
            continue
        within = (t < lengths).to(gates.device)[:, None]
        state = tuple(torch.where(within, one, old) for one, old in zip(new, state, strict=True))
        found[t] = torch.where(within, new[0], torch.zeros_like(new[0]))
    return torch.stack(found), state

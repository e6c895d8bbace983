"""Recurrent layers: linear maps at every time step, inside a kernel that shows none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_priv.nn.per_sample.bk.parts import Dense, Part, Scope
from lightning_priv.nn.per_sample.bk.product import Product
from lightning_priv.nn.per_sample.bk.rules import Rule, Taken, refuse_random, trainable
from lightning_priv.nn.per_sample.layers import Call, Layer

__all__ = ["RECURRENT"]


@dataclass
class _Direction:
    """One direction of one layer, run again step by step.

    Attributes:
        suffix: how its parameters' names end.
        inputs: x, shape (T, rows, D).
        before: hidden state before each step, (T, rows, H).
        from_inputs: W x + b of each step, (T, rows, gates * H), whose gradient is wanted.
        from_hidden: likewise of the hidden state; the same tensor where both are only added up.
    """

    suffix: str
    inputs: Tensor
    before: Tensor
    from_inputs: Tensor
    from_hidden: Tensor


def _parts(layer: Layer, call: Call, gradients: Sequence[Tensor | None], scope: Scope) -> Taken:
    module: Any = layer.module
    x = call.args[0] if call.args else call.kwargs["input"]
    state = call.args[1] if len(call.args) > 1 else call.kwargs.get("hx")
    if not isinstance(x, Tensor) or x.dim() != 3:
        return None  # packed or unbatched
    if module.dropout and module.training and module.num_layers > 1:
        refuse_random(layer)
    with torch.enable_grad():
        steps = x.transpose(0, 1) if module.batch_first else x
        layer.check_rows(layer.parameters[0], steps.shape[1], call.size)
        directions, outputs = _unroll(module, steps, state)
    used = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None]
    wanted = [t for d in directions for t in (d.from_inputs, d.from_hidden)]
    found = torch.autograd.grad(
        [o for o, _ in used], wanted, [g for _, g in used], allow_unused=True
    )
    parts: list[Part] = []
    for i, direction in enumerate(directions):
        for kind, values, g in (
            ("ih", direction.inputs, found[2 * i]),
            ("hh", direction.before, found[2 * i + 1]),
        ):
            if g is None:
                continue
            g = g.transpose(0, 1)
            weight = trainable(module, f"weight_{kind}_{direction.suffix}")
            bias = trainable(module, f"bias_{kind}_{direction.suffix}")
            if weight is not None:
                parts.append(Product(weight, values.detach().transpose(0, 1), g, scope))
            if bias is not None:
                parts.append(Dense(bias, g.sum(1), scope))
    return parts


def _unroll(module: Any, x: Tensor, state: Any) -> tuple[list[_Direction], list[Tensor]]:
    """Run the layer again; its output (as it returned it) and its last states."""
    rows, hidden = x.shape[1], module.hidden_size
    ways = 2 if module.bidirectional else 1
    number = module.num_layers * ways
    if state is None:
        zeros = x.new_zeros(number, rows, hidden)
        state = (zeros, zeros) if isinstance(module, nn.LSTM) else zeros
    first, cells = state if isinstance(state, tuple) else (state, None)
    directions, last, last_cells = [], [], []
    for level in range(module.num_layers):
        outputs = []
        for way in range(ways):
            index = level * ways + way
            suffix = f"l{level}" + ("_reverse" if way else "")
            cell = None if cells is None else cells[index]
            run = _run(module, suffix, x.flip(0) if way else x, first[index], cell)
            direction, hidden_states, cell = run
            directions.append(direction)
            outputs.append(hidden_states.flip(0) if way else hidden_states)
            last.append(hidden_states[-1])
            last_cells.append(cell)
        x = torch.cat(outputs, 2) if ways > 1 else outputs[0]
    ends = [torch.stack(last)]
    if cells is not None:
        ends.append(torch.stack([c for c in last_cells if c is not None]))
    return directions, [x.transpose(0, 1) if module.batch_first else x, *ends]


def _run(
    module: Any, suffix: str, x: Tensor, hidden: Tensor, cell: Tensor | None
) -> tuple[_Direction, Tensor, Tensor | None]:
    """One direction of one layer, with the affine maps' results as leaves in between."""

    def value(name: str) -> Tensor | None:
        parameter = getattr(module, f"{name}_{suffix}", None)
        return None if parameter is None else parameter.detach()

    weight, recurrent = value("weight_ih"), value("weight_hh")
    assert weight is not None
    assert recurrent is not None
    shift = value("bias_hh")
    # gradients of these zeros are those of the maps' results
    given = F.linear(x, weight, value("bias_ih"))
    extra = torch.zeros_like(given, requires_grad=True)
    given = given + extra
    gated = isinstance(module, nn.GRU)
    more = torch.zeros_like(extra, requires_grad=True) if gated else None
    states = [hidden]
    for t in range(len(x)):
        fed = F.linear(hidden, recurrent, shift)
        if more is not None:
            hidden = _gru_step(given[t], fed + more[t], hidden)
        elif cell is not None:
            hidden, cell = _lstm_step(given[t] + fed, cell)
        else:
            act = torch.tanh if module.nonlinearity == "tanh" else torch.relu
            hidden = act(given[t] + fed)
        states.append(hidden)
    before = torch.stack([s.detach() for s in states[:-1]])
    direction = _Direction(suffix, x, before, extra, extra if more is None else more)
    return direction, torch.stack(states[1:]), cell


def _lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    admit, forget, new, show = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + admit.sigmoid() * new.tanh()
    return show.sigmoid() * cell.tanh(), cell


def _gru_step(given: Tensor, fed: Tensor, hidden: Tensor) -> Tensor:
    (reset, update, new), (reset_h, update_h, new_h) = given.chunk(3, -1), fed.chunk(3, -1)
    candidate = (new + (reset + reset_h).sigmoid() * new_h).tanh()
    keep = (update + update_h).sigmoid()
    return candidate + keep * (hidden - candidate)


#: ``nn.LSTM``, ``nn.GRU``, ``nn.RNN``, batch first or second; not with projections (``proj_size``)
RECURRENT = Rule(lambda module: not module.proj_size, _parts)

"""Layouts of single layers in the official HCNN code.

A layout writes a layer's tensors under the official names and reads them back. The official linear
maps carry a dead time row and bias entry, batch norms the time entries of points and tangent
vectors: they are written as zeros (the time of beta, a point, as it is) and not read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lightning_priv.functional.lorentz import to_point
from lightning_priv.nn.lorentz._conv_base import LorentzConvolution
from lightning_priv.nn.lorentz.classifier import LorentzMLR, PoincareMLR
from lightning_priv.nn.lorentz.conv import LorentzConv1d, LorentzConv2d
from lightning_priv.nn.lorentz.conv_transpose import LorentzConvTranspose2d
from lightning_priv.nn.lorentz.linear import LorentzLinear
from lightning_priv.nn.lorentz.normalization import _LorentzBatchNorm

State = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Layout:
    """How one kind of layer is written (``encode``) and read (``decode``).

    ``decode`` gives the layer's own state. Names in ``optional`` may be missing; those in
    ``ignored`` may be there.
    """

    encode: Callable[[Any], State]
    decode: Callable[[Any, Mapping[str, Tensor]], State]
    optional: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def layout(module: nn.Module) -> Layout | None:
    """The layout of a layer, or ``None`` if the official code has none.

    Raises:
        ValueError: for options that the official layers do not have.
    """
    if isinstance(module, LorentzConvolution):
        _refuse(module, groups=module.groups != 1, linear=module.linear != "chen")
        prefix = _kernel_prefix(module)
        return Layout(_encode_conv, _decode_conv, ignored=(f"{prefix}scale",))
    if isinstance(module, LorentzLinear):
        _refuse(module, linear=module.linear != "chen")
        ignored = () if module.normalize else ("scale",)
        return Layout(_encode_linear, _decode_linear, ignored=ignored)
    if isinstance(module, _LorentzBatchNorm):
        _refuse(module, variance=module.variance != "mean_distance", mode=module.mode != "full")
        return Layout(_encode_norm, _decode_norm, optional=("running_mean", "running_var"))
    if isinstance(module, LorentzMLR):
        return _renamed({"z": "normals", "a": "offsets"})
    if isinstance(module, PoincareMLR):
        return Layout(_encode_ball, _decode_ball)
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return _renamed({name: name for name in module.state_dict()})
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        names = {name: name for name in module.state_dict()}
        return _renamed(names, optional=("num_batches_tracked",))
    return None


def _refuse(module: nn.Module, **options: bool) -> None:
    names = [name for name, differs in options.items() if differs]
    if names:
        raise ValueError(
            f"{module}: the official layer has no option like this {' or '.join(names)}, so there "
            "is no official layout for it"
        )


def _renamed(names: dict[str, str], optional: tuple[str, ...] = ()) -> Layout:
    def encode(module: nn.Module) -> State:
        own = module.state_dict()
        return {theirs: own[ours] for theirs, ours in names.items()}

    def decode(_: nn.Module, state: Mapping[str, Tensor]) -> State:
        return {names[theirs]: value for theirs, value in state.items()}

    return Layout(encode, decode, optional)


def _whole(
    weight: Tensor, time_weight: Tensor, bias: Tensor | None, gate: Tensor | None = None
) -> State:
    """Weight (1 + out, 1 + in) and bias (1 + out) with row 0 zero, or the ``gate`` row."""
    matrix = torch.cat([time_weight[:, None], weight], 1)
    row = torch.zeros_like(matrix[:1]) if gate is None else gate[None]
    state = {"weight.weight": torch.cat([row, matrix])}
    if bias is not None:
        state["weight.bias"] = pad(bias, (1, 0))
    return state


def _kernel_prefix(conv: nn.Module) -> str:
    outer = "conv." if isinstance(conv, LorentzConvTranspose2d) else ""
    return f"{outer}linearized_kernel."


def _encode_conv(conv: LorentzConv1d | LorentzConv2d | LorentzConvTranspose2d) -> State:
    assert conv.time_weight is not None
    weight: Tensor = conv.weight
    if weight.dim() == 4:  # window outside, channels inside; the 1d layer has it the other way
        weight = weight.permute(0, 2, 3, 1)
    state = _whole(weight.flatten(1), conv.time_weight, conv.bias)
    return {_kernel_prefix(conv) + name: value for name, value in state.items()}


def _decode_conv(
    conv: LorentzConv1d | LorentzConv2d | LorentzConvTranspose2d, state: Mapping[str, Tensor]
) -> State:
    prefix = _kernel_prefix(conv)
    matrix = state[f"{prefix}weight.weight"][1:]
    rows, channels, *window = conv.weight.shape
    if len(window) == 2:
        weight = matrix[:, 1:].reshape(rows, *window, channels).permute(0, 3, 1, 2)
    else:
        weight = matrix[:, 1:].reshape(conv.weight.shape)
    own = {"weight": weight, "time_weight": matrix[:, 0]}
    if conv.bias is not None:
        own["bias"] = state[f"{prefix}weight.bias"][1:]
    return own


def _encode_linear(linear: LorentzLinear) -> State:
    assert linear.time_weight is not None
    if not linear.normalize:
        return _whole(linear.weight, linear.time_weight, linear.bias)
    own = linear.state_dict()
    gate = torch.cat([own["gate_time_weight"], own["gate_weight"]])
    state = _whole(linear.weight, linear.time_weight, linear.bias, gate)
    if linear.bias is not None:
        state["weight.bias"] = torch.cat([own["gate_bias"], linear.bias])
    return {**state, "scale": own["scale"]}


def _decode_linear(linear: LorentzLinear, state: Mapping[str, Tensor]) -> State:
    matrix = state["weight.weight"]
    own = {"weight": matrix[1:, 1:], "time_weight": matrix[1:, 0]}
    if linear.bias is not None:
        own["bias"] = state["weight.bias"][1:]
    if linear.normalize:
        own |= {"gate_time_weight": matrix[0, :1], "gate_weight": matrix[0, 1:]}
        own["scale"] = state["scale"]
        if linear.bias is not None:
            own["gate_bias"] = state["weight.bias"][:1]
    return own


def _encode_norm(norm: _LorentzBatchNorm) -> State:
    assert norm.gamma is not None
    return {
        "beta": to_point(norm.beta_space, norm.k),
        "gamma": norm.gamma,
        "running_mean": pad(norm.running_mean, (1, 0)),
        "running_var": norm.running_spread,
    }


def _decode_norm(norm: _LorentzBatchNorm, state: Mapping[str, Tensor]) -> State:
    beta = state["beta"][1:]
    own = {
        "beta": beta if norm.trivialize_beta else to_point(beta, norm.k),
        "gamma": state["gamma"],
    }
    if "running_mean" in state:
        own["running_mean"] = state["running_mean"][1:]
    if "running_var" in state:
        own["running_spread"] = state["running_var"]
    return own


def _encode_ball(mlr: PoincareMLR) -> State:
    return {"weight_g": mlr.gains, "weight_v": mlr.directions.mT, "bias": mlr.offsets}


def _decode_ball(_: PoincareMLR, state: Mapping[str, Tensor]) -> State:
    return {
        "gains": state["weight_g"],
        "directions": state["weight_v"].mT,
        "offsets": state["bias"],
    }

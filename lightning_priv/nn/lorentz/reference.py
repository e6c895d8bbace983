"""States in the layout of the official HCNN code: reading, writing."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lightning_priv.nn.hyperbolic_resnet import HyperbolicResNet
from lightning_priv.nn.lorentz._base import LorentzModule
from lightning_priv.nn.lorentz._reference_layers import Layout, layout
from lightning_priv.nn.lorentz.conv_norm import LorentzConvNorm
from lightning_priv.nn.lorentz.manifold import LorentzManifold
from lightning_priv.nn.resnet import BasicBlock, Bottleneck, ConvNorm, ResNet, ResNetEncoder

__all__ = ["load_reference_state", "reference_state"]

# every official layer stores a copy of its manifold's parameter
_MANIFOLD = re.compile(r"(?:^|[._])(?:manifold|ball)\.(k|isp_c)$")


def reference_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module under the names and in the shapes of the official HCNN code.

    Args:
        module: a Lorentz layer, a ``LorentzConvNorm`` (the official input block), a ``BasicBlock``,
            ``Bottleneck``, ``ResNetEncoder``, ``ResNet`` or ``HyperbolicResNet``, or an
            ``nn.Sequential`` of these.

    Returns:
        Plain tensors, detached copies. The dead time rows of linear maps are zero; curvature
        parameters, which the official code keeps with every layer, are left out.

    Raises:
        ValueError: if the official code has no such layer.

    Example:
        >>> from lightning_priv.nn.lorentz import LorentzLinear
        >>> {name: tuple(t.shape) for name, t in reference_state(LorentzLinear(3, 5)).items()}
        {'weight.weight': (6, 4), 'weight.bias': (6,)}
    """
    state: dict[str, Tensor] = {}
    with torch.no_grad():
        for theirs, _, layer, form in _layers(module):
            state |= {theirs + name: value for name, value in form.encode(layer).items()}
        return {name: value.detach().clone().as_subclass(Tensor) for name, value in state.items()}


def load_reference_state(module: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load a state in the layout of the official HCNN code.

    Names and shapes are checked first, so that nothing is changed on an error. Dead time rows and
    entries are dropped; running statistics may be missing (then they stay as they are). Curvature
    parameters in the state must agree with the module's k, or set it if it is learnable. Whether
    an official layer normalised its linear map is not visible in its state: build the module as
    the official one was built.

    Args:
        module: as in ``reference_state``.
        state_dict: names and tensors, or the official checkpoint with the key ``model``; read the
            file by ``torch.load(path, weights_only=True)``.

    Raises:
        ValueError: if names are missing or unknown, shapes, values or curvatures wrong (all are
            listed), or the official code has no such layer.
        TypeError: if a value is not a tensor.
    """
    if isinstance(state_dict.get("model"), Mapping):
        state_dict = state_dict["model"]
    state = _tensors(state_dict)
    curvatures = {name: _curvature(name, state.pop(name)) for name in [*state] if _is_k(name)}
    layers = list(_layers(module))
    wanted = reference_state(module)
    _check_names_and_shapes(module, layers, wanted, state)
    manifold = _manifold(module)
    k = _common_k(module, manifold, curvatures)
    old = None if k is None or manifold is None else float(manifold.k.detach())
    if manifold is not None and k is not None:
        manifold.set_k(k)
    try:
        own = module.state_dict()
        for theirs, ours, layer, form in layers:
            part = {
                name.removeprefix(theirs): state[name]
                for name in (theirs + n for n in form.encode(layer))
                if name in state
            }
            own |= {ours + name: value for name, value in form.decode(layer, part).items()}
        module.load_state_dict(own)
    except BaseException:
        if manifold is not None and old is not None:
            manifold.set_k(old)
        raise


def _layers(
    module: nn.Module, theirs: str = "", ours: str = ""
) -> Iterator[tuple[str, str, nn.Module, Layout]]:
    """Layers with their official prefix, their prefix here and their layout."""
    if not module.state_dict():  # activations, pooling, a missing norm
        return
    form = layout(module)
    if form is not None:
        yield theirs, ours, module, form
        return
    for their_name, our_name, child in _children(module):
        yield from _layers(child, f"{theirs}{their_name}.", f"{ours}{our_name}.")


def _children(module: nn.Module) -> list[tuple[str, str, nn.Module]]:
    if isinstance(module, LorentzConvNorm):
        return _unit(module, "", "conv.", 0)
    if isinstance(module, ConvNorm):
        return _unit(module, "", "", 0)
    if isinstance(module, (BasicBlock, Bottleneck)):
        names = ["first", "second", "third"][: 3 if isinstance(module, Bottleneck) else 2]
        found = []
        for index, name in enumerate(names):
            found += _unit(getattr(module, name), f"{name}.", "conv.", 3 * index)
        if not isinstance(module.shortcut, nn.Identity):
            found += _unit(module.shortcut, "shortcut.", "shortcut.", 0)
        return found
    if isinstance(module, ResNetEncoder):
        stages = [(f"conv{i + 2}_x", f"stages.{i}", stage) for i, stage in enumerate(module.stages)]
        return [("conv1", "stem", module.stem), *stages]
    if isinstance(module, (HyperbolicResNet, ResNet)):
        return [("encoder", "encoder", module.encoder), ("decoder", "head", module.head)]
    if isinstance(module, nn.Sequential):
        return [(name, name, child) for name, child in module.named_children()]
    raise ValueError(
        f"the official code has nothing like {type(module).__name__}; layouts are known for "
        "Lorentz layers, ResNet blocks, encoders and networks"
    )


def _unit(unit: nn.Module, ours: str, theirs: str, first: int) -> list[tuple[str, str, nn.Module]]:
    """Convolution and normalisation, which the official code numbers in one sequence."""
    if not isinstance(unit, (LorentzConvNorm, ConvNorm)):
        raise ValueError(f"expected a unit of convolution and norm, got {type(unit).__name__}")
    if isinstance(unit, LorentzConvNorm) and unit.residual is not None:
        raise ValueError(
            f"the official code has no residual connection with mode={unit.residual.mode!r}, so "
            "there is no official layout for it"
        )
    return [
        (f"{theirs}{first}", f"{ours}conv", unit.conv),
        (f"{theirs}{first + 1}", f"{ours}norm", unit.norm),
    ]


def _tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name!r} is a {type(value).__name__}, but a state holds tensors; read the file "
                "by torch.load(path, weights_only=True)"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{name!r} holds NaN or infinite values")
    return {name: value.detach().as_subclass(Tensor) for name, value in state_dict.items()}


def _check_names_and_shapes(
    module: nn.Module,
    layers: list[tuple[str, str, nn.Module, Layout]],
    wanted: dict[str, Tensor],
    state: dict[str, Tensor],
) -> None:
    optional = {theirs + name for theirs, _, _, form in layers for name in form.optional}
    for theirs, _, _, form in layers:
        for name in form.ignored:
            state.pop(theirs + name, None)
    problems = [f"missing {name}" for name in wanted if name not in state and name not in optional]
    problems += [f"unknown {name}" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, wanted {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        raise ValueError(
            f"the state does not fit {type(module).__name__} in the official layout: "
            + "; ".join(problems)
        )


def _is_k(name: str) -> bool:
    return _MANIFOLD.search(name) is not None


def _curvature(name: str, value: Tensor) -> float:
    """K of a stored curvature parameter; the ball's is softplus^-1(c) with c = 1/k."""
    if value.numel() != 1:
        raise ValueError(f"{name} must be a single number, got shape {tuple(value.shape)}")
    number = value.double().reshape(())
    return float(1 / softplus(number)) if name.endswith("isp_c") else float(number)


def _manifold(module: nn.Module) -> LorentzManifold | None:
    for part in module.modules():
        if isinstance(part, (LorentzModule, HyperbolicResNet)):
            return part.manifold
    return None


def _common_k(
    module: nn.Module, manifold: LorentzManifold | None, curvatures: dict[str, float]
) -> float | None:
    """The k to set, or None if there is nothing to set."""
    if manifold is None or not curvatures:
        return None
    k = next(iter(curvatures.values()))
    others = {n: v for n, v in curvatures.items() if abs(v - k) > 1e-6 * abs(k)}
    if others:
        raise ValueError(
            f"the state has several curvatures ({k:g}; {others}), a module here has one k"
        )
    if manifold.learnable:
        return k
    own = float(manifold.k.detach())
    if abs(k - own) > 1e-6 * own:
        raise ValueError(
            f"the state belongs to k={k:g}, {type(module).__name__} has k={own:g}; build it with "
            f"k={k:g}"
        )
    return None

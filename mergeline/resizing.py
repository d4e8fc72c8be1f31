"""A network with other numbers of units: its layers as they are, their tensors and sizes as the widths ask.

Weights are filled with copies of the network's own: what matters is the shape. Nothing is written by hand for an
architecture: that the network runs and has the asked widths is found out by tracing it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from mergeline.spaces import SpaceError, Spaces, trace

__all__ = ["resized", "resized_shapes", "with_sizes"]

Shape = tuple[int, ...]


def resized_shapes(network: nn.Module, spaces: Spaces, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """The shapes of a network's tensors where its spaces have other sizes, by name in the state dict.

    ``sizes``: units by space; a space without an entry keeps its own.
    """
    shapes = {}
    for name, tensor in network.state_dict().items():
        shape = list(tensor.shape)
        for space, axis in spaces.tensors.get(spaces.recording.aliases.get(name, name), ()):
            more = sizes.get(space, spaces[space].size) - spaces[space].size
            if more:
                shape[axis.axis] += more * axis.repeat
        shapes[name] = tuple(shape)
    return shapes


def resized(network: nn.Module, spaces: Spaces, sizes: Mapping[str, int]) -> tuple[nn.Module, Spaces]:
    """A copy of a network with other widths, and its spaces.

    Parameters
    ----------
    spaces: the network's.
    sizes: units by space; a space without an entry keeps its own.

    Raises
    ------
    ValueError: the copy does not run, or has other widths; names the modules that hold tensors in ways of their own.
    """
    shapes = resized_shapes(network, spaces, sizes)
    made = deepcopy(network)
    known: dict[int, Tensor] = {}
    own_ways = []
    for path, module in made.named_modules():
        before = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        changed = False
        for leaf, tensor in before.items():
            shape = shapes.get(f"{path}.{leaf}" if path else leaf, tuple(tensor.shape))
            if shape != tuple(tensor.shape):
                setattr(module, leaf, known.setdefault(id(tensor), _filled(tensor, shape)))
                changed = True
        if changed and not _fitted(module):
            own_ways.append(f"{path or 'the network itself'} ({type(module).__name__})")
    try:
        found = trace(made, spaces.example)
        wrong = [name for name in sizes if found[name].size != sizes[name]]
        reason = f"spaces {', '.join(map(repr, wrong))} have other sizes then" if wrong else ""
    except (SpaceError, KeyError) as error:
        reason = str(error)
    if reason:
        held = f"; modules that hold sizes in ways of their own: {', '.join(own_ways)}" if own_ways else ""
        raise ValueError(
            f"a {type(network).__name__} of the merged widths cannot be made: {reason}{held}. Choose the width of one of the "
            "models"
        )
    return made, found


def with_sizes(module: nn.Module, sizes: Mapping[int, int]) -> nn.Module:
    """A copy of a module whose tensors' first two axes have other sizes, each as ``sizes`` says of its own."""
    made = deepcopy(module)
    for part in made.modules():
        held = dict(part.named_parameters(recurse=False)) | dict(part.named_buffers(recurse=False))
        shapes = {
            leaf: (*(sizes.get(size, size) for size in tensor.shape[:2]), *tensor.shape[2:])
            for leaf, tensor in held.items()
        }
        changed = {
            leaf: _filled(held[leaf], shape) for leaf, shape in shapes.items() if shape != tuple(held[leaf].shape)
        }
        for leaf, tensor in changed.items():
            setattr(part, leaf, tensor)
        if changed:
            _fitted(part)
    return made


def _filled(tensor: Tensor, shape: Shape) -> Tensor:
    """A tensor of another shape from the entries of this one, over and over."""
    values = tensor.detach()
    for axis, size in enumerate(shape):
        values = values.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])
    return nn.Parameter(values, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values


def _fitted(module: nn.Module) -> bool:
    """Whether a module's attributes are known, and now say what its tensors' sizes are."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _ConvNd):
        _fit_convolution(module)
    elif isinstance(module, _NormBase):
        held = next(t for t in (module.weight, module.running_mean) if t is not None)
        module.num_features = len(held)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    else:
        return False
    return True


def _fit_convolution(module: _ConvNd) -> None:
    """Groups keep their number of rows, so that depthwise convolutions stay depthwise."""
    rows, inside = module.weight.shape[:2]
    transposed = isinstance(module, _ConvTransposeNd)
    if module.groups > 1:
        module.groups = rows // ((module.in_channels if transposed else module.out_channels) // module.groups)
    other = inside * module.groups
    module.in_channels, module.out_channels = (rows, other) if transposed else (other, rows)

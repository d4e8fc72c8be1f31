"""What ``merge`` is given, made ready: models copied, checked and in a type to compute in; data as batches of inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune
from torch.utils import _pytree as pytree

from mergeline.faults import fault_of
from mergeline.spaces import Spaces
from mergeline.spaces.recording import Recording, operation, record

__all__ = [
    "Batches",
    "check_same_constants",
    "check_same_names",
    "check_same_topology",
    "first_difference",
    "first_samples",
    "mixed_batches",
    "prepared",
]

DATA = (
    "data must be batches of inputs as the models take them: a tensor, or a list or loader of tensors, of (inputs, labels) "
    "pairs, or of dicts"
)
COMPUTED = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


# -- models -----------------------------------------------------------------------------------------------------------


def prepared(model: nn.Module, name: str) -> nn.Module:
    """A copy of a model in eval mode, its weights plain and in a type that sums can be taken in.

    Raises
    ------
    ValueError: not a model, weights that are not finite, variances below zero, or weights kept in a form that stands for others
        and that cannot be undone; names the model and the tensor.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model {name!r} is a {type(model).__name__}, not a torch.nn.Module")
    # Tensors that a module computes and keeps (a pruned weight) cannot be copied with their history.
    kept = (value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor))
    copy = deepcopy(model, {id(value): value.detach().clone() for value in kept}).eval()
    _plain_weights(copy, name)
    for key, tensor in [*copy.named_parameters(), *copy.named_buffers()]:
        if tensor.is_quantized:
            raise ValueError(f"model {name!r}: tensor {key!r} is quantised; merge the model before it is quantised")
        if tensor.is_complex():
            raise ValueError(f"model {name!r}: tensor {key!r} is complex, and units of complex values are not followed")
        if fault := fault_of(key, tensor):
            raise ValueError(f"model {name!r}: tensor {key!r} {fault}")
    for tensor in [*copy.parameters(), *copy.buffers()]:
        if tensor.dtype in COMPUTED:
            tensor.data = tensor.data.to(COMPUTED[tensor.dtype])
    return copy


def _plain_weights(model: nn.Module, name: str) -> None:
    """Weight norm, spectral norm, pruning masks and other parametrisations become the weight that they stand for."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            _without_parametrizations(module)
        hooks: list[Any] = list(module._forward_pre_hooks.values())
        for hook in hooks:
            kind = type(hook).__name__
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
            elif kind == "WeightNorm":
                nn.utils.remove_weight_norm(module, hook.name)
            elif kind == "SpectralNorm":
                nn.utils.remove_spectral_norm(module, hook.name)
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in module._parameters.values()):
            raise ValueError(f"model {name!r} has lazy layers that were never run: run it once on an input")


def _without_parametrizations(module: nn.Module) -> None:
    """As torch's ``remove_parametrizations``, which changes the class that the copy shares with its original."""
    parametrized: Any = module.parametrizations
    plain = {name: getattr(module, name).detach().clone() for name in parametrized}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, tensor in plain.items():
        module.register_parameter(name, nn.Parameter(tensor))


def check_same_names(networks: Mapping[str, nn.Module]) -> None:
    """Every network must have tensors of the first's names.

    Raises
    ------
    ValueError: names the model and the tensors.
    """
    (first_name, first), *others = networks.items()
    for name, network in others:
        odd = sorted(set(first.state_dict()) ^ set(network.state_dict()))
        if odd:
            raise ValueError(
                f"model {name!r} has another topology than {first_name!r}: only one of them has {', '.join(odd[:3])}"
            )


def check_same_constants(networks: Mapping[str, nn.Module], spaces: Spaces) -> None:
    """What the networks read and merging does not average must be the same in all: buffers of whole numbers (indices, masks), and
    those that are not kept in a state dict.

    Raises
    ------
    ValueError: names the model and the buffer.
    """
    (first_name, first), *others = networks.items()
    read = {str(node.target) for node in spaces.graph.nodes if node.op == "get_attr" and node.users}
    averaged = {key for key, tensor in first.state_dict().items() if tensor.is_floating_point()}
    fixed = {key: own for key, own in first.named_buffers(remove_duplicate=False) if key in read - averaged}
    for name, network in others:
        buffers = dict(network.named_buffers(remove_duplicate=False))
        for key, buffer in fixed.items():
            own = buffers.get(key)
            if own is None or (own.shape == buffer.shape and not torch.equal(own, buffer)):
                raise ValueError(
                    f"model {name!r}: buffer {key!r}, which the network computes with, has other values than that of "
                    f"{first_name!r}, and no merge of the two stands for both"
                )


def check_same_topology(
    networks: Mapping[str, nn.Module],
    spaces: Spaces,
    same_outputs: bool,
    other_width: str = "models of different width cannot be merged",
) -> None:
    """Every network must compute what the first does, and every tensor have the shape of the first's (outputs apart, where
    they mean different things). ``other_width``: what to say of other shapes.

    Raises
    ------
    ValueError: names the model and what is different.
    """
    check_same_names(networks)
    (first_name, first), *others = networks.items()
    reference = {name: tensor.shape for name, tensor in first.state_dict().items()}
    apart = frozenset() if same_outputs else spaces.output_tensors
    for name, network in others:
        state = network.state_dict()
        for key, shape in reference.items():
            if state[key].shape == shape or key in apart:
                continue
            ends = key in spaces.output_tensors
            advice = (
                "models of different outputs go in a mapping, not in a list" if ends
                else other_width
            )  # fmt: skip
            raise ValueError(
                f"model {name!r}: {key!r} has shape {tuple(state[key].shape)}, that of {first_name!r} {tuple(shape)}; {advice}"
            )
        difference = first_difference(spaces.recording, record(network, spaces.example))
        if difference:
            raise ValueError(f"model {name!r} computes something else than {first_name!r}: {difference}")


def first_difference(ours: Recording, theirs: Recording) -> str:
    """Where two recorded graphs part; empty if they are one."""
    nodes, others = list(ours.graph.nodes), list(theirs.graph.nodes)
    for node, other in zip(nodes, others, strict=False):
        if node.op == "output" or other.op == "output":
            break
        place = ours.modules.get(node.name) or "the top of the model"
        if (node.op, operation(node)) != (other.op, operation(other)):
            return f"in {place!r} {operation(other)} stands in place of {operation(node)}"
        mine, its = _constants(node), _constants(other)
        if operation(node) != "dropout" and mine != its and ours.shapes.get(node.name) == theirs.shapes.get(other.name):
            return f"in {place!r} {operation(node)} has {its} in place of {mine}"
    if len(nodes) != len(others):
        return "one of them has more operations"
    for name, tensor in ours.constants.items():
        its_own = theirs.constants.get(name)
        if its_own is not None and its_own.shape == tensor.shape and not torch.equal(its_own, tensor):
            reader = next((n for n in nodes if any(str(used.target) == name for used in n.all_input_nodes)), None)
            place = "" if reader is None else ours.modules.get(reader.name, "")
            return f"in {place or 'the top of the model'!r} a tensor that is neither a parameter nor a buffer has other values"
    return ""


def _constants(node: fx.Node) -> list[Any]:
    """What a node is given beside tensors; a batch norm without its momentum, which says nothing of what it computes."""
    given = list(node.args), dict(node.kwargs)
    if operation(node) == "batch_norm":
        given[0][6:7] = []
        given[1].pop("momentum", None)
    return [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, int | float | str | bool)]


# -- data -------------------------------------------------------------------------------------------------------------


class Batches:
    """Batches of inputs, read as often as asked for, one in memory at a time where the source can be read again.

    Parameters
    ----------
    source: a tensor, an iterable of batches, or a function that gives one. What can be read once only (a generator) is kept
        in memory if ``again`` is true.
    """

    def __init__(self, source: Any, again: bool) -> None:
        if isinstance(source, Tensor):
            source = [source]
        if callable(source) and not isinstance(source, Iterable):
            self._open: Callable[[], Iterable[Any]] = source
        elif not isinstance(source, Iterable) or isinstance(source, str | bytes):
            raise ValueError(f"{DATA}; got a {type(source).__name__}")
        elif iter(source) is source:  # read once: what was looked at first must come again
            kept = list(source) if again else _Once(source)
            self._open = lambda: kept
        else:
            self._open = lambda: source
        self.images = 0

    def __iter__(self) -> Iterator[Any]:
        self.images = 0
        for number, batch in enumerate(self._open()):
            inputs = _inputs(batch)
            _check_values(inputs, number)
            self.images += batch_size(inputs)
            yield inputs

    def __len__(self) -> int:
        """Whether there is any: 1 or 0."""
        return int(next(iter(self), None) is not None)


class _Once:
    """A generator whose first item can be looked at before it is read."""

    def __init__(self, source: Iterable[Any]) -> None:
        self.source = iter(source)
        self.looked: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        if not self.looked:
            self.looked = [item for item in (next(self.source, None),) if item is not None]
        yield from self.looked
        yield from self.source


def _inputs(batch: Any) -> Any:
    """The inputs of a batch, without its labels."""
    if isinstance(batch, Mapping):
        batch = {key: value for key, value in batch.items() if key not in ("labels", "label")}
    if isinstance(batch, tuple | list):
        if (
            len(batch) == 2
            and isinstance(batch[1], Tensor)
            and batch[1].dim() <= 1
            and not batch[1].is_floating_point()
        ):
            batch = batch[0]
        else:
            batch = tuple(batch)
    leaves = pytree.tree_leaves(batch)
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ValueError(f"{DATA}; a batch is a {type(batch).__name__}")
    if leaves[0].dim() == 0 or len(leaves[0]) == 0:
        raise ValueError(f"{DATA}; a batch has no samples")
    return batch


def _check_values(batch: Any, number: int) -> None:
    """Refuse values that no network makes anything of. Infinities may be a mask's, where there are several tensors."""
    for leaf in pytree.tree_leaves(batch):
        if not leaf.is_floating_point():
            continue
        odd = ~torch.isfinite(leaf) if leaf is batch else torch.isnan(leaf)
        if bool(odd.any()):
            sample = int(odd.reshape(len(odd) if odd.dim() else 1, -1).any(1).nonzero()[0, 0])
            raise ValueError(
                f"data: {int(odd.sum())} values of batch {number} are not finite, the first in its sample {sample}; leave it out, "
                "or look at how it was prepared (a deviation of 0 that was divided by?)"
            )


def batch_size(batch: Any) -> int:
    """The number of samples of a batch, whatever its form."""
    return len(pytree.tree_leaves(batch)[0])


def samples(batch: Any, chosen: slice | Sequence[int]) -> Any:
    """Some samples of a batch, whatever its form."""
    size = batch_size(batch)
    return pytree.tree_map(lambda t: t[chosen] if t.dim() and len(t) == size else t, batch)


def first_samples(batch: Any, count: int) -> Any:
    """The first samples of a batch, whatever its form."""
    return samples(batch, slice(count))


def mixed_batches(parts: Sequence[Iterable[Any]]) -> Callable[[], Iterator[Any]]:
    """Batches that hold samples of all tasks: one batch of each, side by side, as long as there are any."""

    def mixed() -> Iterator[Any]:
        readers = [iter(part) for part in parts]
        while readers:
            found = [(reader, next(reader, None)) for reader in readers]
            readers = [reader for reader, batch in found if batch is not None]
            batches = [batch for _, batch in found if batch is not None]
            if batches:
                yield pytree.tree_map(lambda *tensors: torch.cat(tensors), *batches) if len(batches) > 1 else batches[0]

    return mixed

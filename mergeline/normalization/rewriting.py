"""Writing statistics into weights: a network whose targets have the mean and deviation that they should have.

All calibration images pass through the network together, operation by operation: at every target the statistics of the network
that is already set right below are known exactly, and one pass is enough. The sequential variant reads the images once for
every target instead, and holds one batch at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from mergeline.biases import add_biases, bias_name, check_bias
from mergeline.moments import DEAD
from mergeline.normalization.targets import Goal, Target, targets
from mergeline.spaces.layers import Layer
from mergeline.spaces.norms import BatchNorm
from mergeline.spaces.recording import Recording, flat_inputs, operation, record
from mergeline.spaces.walking import last_uses, model_tensors, run_node
from mergeline.unit_statistics import UnitStatistics, unit_statistics

__all__ = ["refusal", "rewrite"]


@torch.no_grad()
def rewrite(
    network: nn.Module,
    recording: Recording,
    goals: Mapping[str, Goal],
    batches: Iterable[Any],
    shift: bool,
    sequential: bool = False,
) -> None:
    """Give targets their goals, in place (vanishing_feature Eq. 1; Sec. 5.3 for ``shift`` false).

    Parameters
    ----------
    recording: the network's graph.
    goals: by the target's name in this network; other targets stay as they are.
    batches: calibration inputs, which can be read more than once.
    shift: set the means, too; without, outputs are only scaled: ``x / sigma * sigma_goal``.
    sequential: read the images once for every target, with one batch in memory, instead of once with all.

    Raises
    ------
    ValueError: a target cannot be set right: it is used several times, shares its weight with another operation, or is a batch norm
        without parameters.
    """
    chosen = [target for target in targets(recording) if target.name in goals]
    for target in chosen:
        _check(recording, target)
    lacking = [target.layer.weight for target in chosen if target.layer is not None and not target.layer.bias]
    if shift and lacking:
        add_biases(network, lacking)
    if sequential:
        if shift and lacking:  # the graph must read what was added
            recording = record(network, next(iter(batches)))
            chosen = [target for target in targets(recording) if target.name in goals]
        for target in chosen:
            measured = _measured_alone(network, recording, target, batches, shift)
            _set_right(network, target, measured, goals[target.name], shift)
        return
    by_node = {target.nodes[0]: target for target in chosen}
    replaced = {target.nodes[0] for target in chosen if target.norm is not None and shift}
    sweep = Sweep(recording, model_tensors(network), list(batches), replaced)
    left = len(chosen)
    for node in sweep:
        if node not in by_node:
            continue
        target = by_node[node]
        measured = unit_statistics(sweep.values[_measured_at(target, shift)], target.channel)
        scale, offset = _set_right(network, target, measured, goals[target.name], shift)
        sweep.values[node] = [
            _affine(value, scale, offset, target.channel) for value in sweep.values[_measured_at(target, shift)]
        ]
        left -= 1
        if not left:
            return


def refusal(network: nn.Module, recording: Recording, shift: bool) -> str:
    """Why a network's outputs cannot be set right; empty where they can."""
    try:
        for target in targets(recording):
            _check(recording, target)
            if shift and target.layer is not None and not target.layer.bias:
                check_bias(network, target.layer.weight)
    except ValueError as error:
        return str(error)
    return ""


def _check(recording: Recording, target: Target) -> None:
    if len(target.nodes) > 1:
        raise ValueError(
            f"{target.name!r} is used {len(target.nodes)} times, with statistics of its own each time: it cannot be set right; "
            "choose reset or none"
        )
    if target.norm is not None and not (target.norm.gamma and target.norm.beta):
        raise ValueError(f"the batch norm of {target.name!r} has no weight and bias to set; choose reset")
    if target.layer is None or target.layer.rows is not None:
        return
    names = {target.layer.weight} | {target.layer.bias} - {""}
    for node in recording.graph.nodes:
        if node.op != "get_attr" or recording.aliases.get(str(node.target), str(node.target)) not in names:
            continue
        for user in set(node.users) - set(target.nodes):
            raise ValueError(
                f"{node.target!r} is read by {operation(user)} too, which scaling it would change; choose none"
            )


def _measured_at(target: Target, shift: bool) -> fx.Node:
    """A batch norm's input, where its statistics are set anew; else the output itself."""
    if target.norm is not None and shift:
        return target.norm.source
    return target.nodes[0]


def _measured_alone(
    network: nn.Module, recording: Recording, target: Target, batches: Iterable[Any], shift: bool
) -> UnitStatistics:
    """A target's statistics as the network is now, one batch at a time."""
    tensors = model_tensors(network)
    found: UnitStatistics | None = None
    place = _measured_at(target, shift)
    for batch in batches:
        sweep = Sweep(recording, tensors, [batch])
        for node in sweep:
            if node is place:
                own = unit_statistics(sweep.values[node], target.channel)
                found = own if found is None else found.joined(own)
                break
    if found is None:
        raise ValueError("there are no images to measure a network on")
    return found


def _set_right(
    network: nn.Module, target: Target, measured: UnitStatistics, goal: Goal, shift: bool
) -> tuple[Tensor, Tensor]:
    """Rewrite what makes a target; returns the factor and the offset of the measured value."""
    variance = measured.squares / measured.n
    dead = variance <= DEAD * (variance + measured.mean.square())
    deviation = torch.where(dead, 1.0, variance.sqrt())
    wanted = goal.deviation.to(deviation)
    scale = torch.where(dead, 1.0, wanted / deviation)  # what is constant cannot be scaled to vary
    offset = goal.mean.to(scale) - measured.mean * scale if shift else torch.zeros_like(scale)
    if target.norm is not None:
        _write_norm(network, target.norm, measured, scale, goal, shift)
    else:
        assert target.layer is not None
        _write_layer(network, target.layer, scale, offset, shift)
    return scale, offset


def _write_layer(network: nn.Module, layer: Layer, scale: Tensor, offset: Tensor, shift: bool) -> None:
    weight = network.get_parameter(layer.weight)
    rows = slice(None) if layer.rows is None else slice(*layer.rows)
    part = weight.movedim(layer.axis, 0)[rows]
    part.mul_(scale.to(part).view(-1, *[1] * (part.dim() - 1)))
    if layer.bias:
        bias = network.get_parameter(layer.bias)[rows]
        bias.copy_(bias.double() * scale + offset)
    elif shift:  # made just now
        network.get_parameter(bias_name(layer.weight))[rows].copy_(offset)


def _write_norm(
    network: nn.Module, norm: BatchNorm, measured: UnitStatistics, scale: Tensor, goal: Goal, shift: bool
) -> None:
    gamma, beta = network.get_parameter(norm.gamma), network.get_parameter(norm.beta)
    if not shift:
        gamma.copy_(gamma.double() * scale)
        beta.copy_(beta.double() * scale)
        return
    variance = measured.squares / measured.n
    network.get_buffer(norm.mean).copy_(measured.mean)
    network.get_buffer(norm.variance).copy_(variance)
    gamma.copy_(scale * (variance + norm.eps).sqrt())
    beta.copy_(goal.mean)


def _affine(value: Tensor, scale: Tensor, offset: Tensor, channel: int) -> Tensor:
    shape = [-1] + [1] * (-1 - channel)
    return torch.addcmul(offset.to(value).view(shape), value, scale.to(value).view(shape))


class Sweep:
    """All batches through a recorded network, one operation at a time.

    Iterating gives each node when ``values`` holds its value for every batch; what stands there when the next node is asked for
    is what the network goes on with. Values are dropped when nothing needs them any more. ``replaced``: nodes that are not run,
    as whoever iterates gives their values.
    """

    def __init__(
        self,
        recording: Recording,
        tensors: Mapping[str, Tensor],
        batches: list[Any],
        replaced: Collection[fx.Node] = (),
    ) -> None:
        self.recording = recording
        first = next((t for t in tensors.values() if t.is_floating_point()), torch.zeros(1))
        self.tensors = dict(tensors) | {name: value.to(first.device) for name, value in recording.constants.items()}
        self.inputs = [[self._placed(leaf, first) for leaf in flat_inputs(batch)[0]] for batch in batches]
        self.values: dict[fx.Node, list[Any]] = {}
        self.replaced = replaced

    @staticmethod
    def _placed(leaf: Tensor, like: Tensor) -> Tensor:
        return leaf.to(like.device, like.dtype) if leaf.is_floating_point() else leaf.to(like.device)

    def __iter__(self) -> Iterator[fx.Node]:
        nodes = [node for node in self.recording.graph.nodes if node.op != "output"]
        unused = last_uses(nodes)
        place = 0
        for node in nodes:
            if node.op == "placeholder":
                self.values[node] = [inputs[place] for inputs in self.inputs]
                place += 1
            elif node.op == "get_attr":
                self.values[node] = [self.tensors[str(node.target)]] * len(self.inputs)
            elif node not in self.replaced:
                self.values[node] = [self._run(node, batch) for batch in range(len(self.inputs))]
            yield node
            for used in unused.get(node, ()):
                self.values.pop(used, None)

    def _run(self, node: fx.Node, batch: int) -> Any:
        return run_node(node, lambda used: self.values[used][batch])

"""Preserve-first merging: the first layers stay each model's own, and what they give is mapped and averaged once
(vanishing_feature Sec. 5.4, A.3)."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from mergeline.bundles import with_bundles
from mergeline.heads import (
    Cut,
    MappedUnits,
    MultiHead,
    OneHead,
    Part,
    blank,
    copies,
    cumulative_flops,
    cut,
    filled,
    load_resized,
    multi_head,
    tensors_read,
)
from mergeline.maps import Groups, Permutation, UnitMap
from mergeline.merging import Maps, checked_weights, merge_folded, unit_shares
from mergeline.spaces import Observation, Space, Spaces
from mergeline.spaces.layers import node_depths
from mergeline.spaces.recording import flat_inputs

__all__ = ["PreserveFirst", "preserve_first", "preserve_first_from_state", "preserved_layers", "stem_nodes"]


def preserved_layers(model: nn.Module, spaces: Spaces, preserve: float | str | None) -> int:
    """How many layers stay apart: ``preserve`` itself if it is whole; if it is a share below 1, the fewest by whose end at
    least that share of the network's multiply-adds is done.

    Raises
    ------
    ValueError: more layers than there are, or a share outside 0 to 1.
    """
    if preserve is None:
        return 0
    depths = node_depths(spaces.graph)
    most = max(depths.values(), default=0)
    try:
        number = float(preserve)
    except ValueError:
        raise ValueError(f"preserve: {preserve!r} is neither a number of layers nor a share") from None
    if number.is_integer():
        if not 0 <= number <= most:
            raise ValueError(f"preserve: {preserve} layers, but the network has {most} (0 to {most} can be preserved)")
        return int(number)
    if not 0 < number < 1:
        raise ValueError(f"preserve: {preserve} is neither a whole number of layers nor a share between 0 and 1")
    done = cumulative_flops(model, spaces, spaces.example)
    spent = np.zeros(most + 1)
    before = 0
    for node, depth in depths.items():
        spent[depth] += done[node.name] - before
        before = done[node.name]
    return int(np.argmax(spent.cumsum() >= number * before))


def stem_nodes(spaces: Spaces, layers: int) -> frozenset[str]:
    """The names of the nodes that are done when the first ``layers`` layers are; none of 0."""
    if layers == 0:
        return frozenset()
    depths = node_depths(spaces.graph)
    return frozenset(
        node.name for node, depth in depths.items() if depth <= layers and node.op not in ("get_attr", "output")
    )


def merged_units(unit_map: UnitMap, place: Observation, size: int, relative: Tensor) -> MappedUnits:
    """Gives a model's part of the merged units: its own mapped, each merged unit times its relative weight."""
    if isinstance(unit_map, Permutation):
        return MappedUnits(place, size, torch.from_numpy(unit_map.index))
    matrix = unit_map.merge(torch.eye(unit_map.size, dtype=torch.float64), 0)
    return MappedUnits(place, size, (matrix * relative[:, None]).float())


class PreserveFirst(nn.Module):
    """A stem per model, and a network of merged layers that reads the weighted average of what the stems give.

    ``common``: for each value that passes, whether it is the same whatever the model, and is taken from the first.
    """

    def __init__(
        self, stems: Sequence[nn.Module], rest: nn.Module, common: Sequence[bool], outputs: Sequence[str] = ("",)
    ) -> None:
        super().__init__()
        self.stems = nn.ModuleList(stems)
        self.rest = rest
        self.common = tuple(common)
        self.outputs = tuple(outputs)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        leaves, _ = flat_inputs(named or inputs)
        *others, last = self.stems
        parts = zip(self.common, *(stem(*copies(leaves)) for stem in others), last(*leaves), strict=True)
        entry = [values[0] if common else sum(values[1:], values[0]) for common, *values in parts]
        if isinstance(self.rest, MultiHead | OneHead):
            return self.rest.of_values(entry)
        found = self.rest(*entry)
        return found[0] if len(found) == 1 else dict(zip(self.outputs, found, strict=True))

    def alone(self, name: str) -> PreserveFirst:
        """The same with one of its heads, sharing their tensors."""
        assert isinstance(self.rest, MultiHead)
        return PreserveFirst(list(self.stems), self.rest.alone(name), self.common, self.outputs)


def preserve_first(
    models: Mapping[str, nn.Module],
    spaces: Spaces,
    layers: int,
    maps: Sequence[Maps] | None = None,
    weights: Sequence[float] | None = None,
    stop: str | None = None,
    whole: bool = True,
    reference: nn.Module | None = None,
) -> PreserveFirst:
    """Merge models above their first ``layers`` layers, which each keeps.

    Parameters
    ----------
    models: by head, of one topology up to their classifiers.
    layers: of the longest path from the input, counted from 1 (:mod:`mergeline.spaces.layers`).
    maps, weights: each model's; identity and uniform by default.
    stop: the last space that is merged, if ``whole`` is false.
    whole: merge all that follows, the classifiers too.
    reference: a network of the merged widths; the first model by default.

    Raises
    ------
    ValueError: the layers end inside of an attention, or above ``stop``.
    """
    networks = list(models.values())
    weights = checked_weights(weights, len(networks))
    reference = networks[0] if reference is None else reference
    stem = stem_nodes(spaces, layers)
    plan = _whole(spaces, stem) if whole else cut(reference, spaces, stop, stem)
    if maps is None:
        maps = [{name: Permutation.identity(spaces[name].size) for name in plan.trunk_spaces} for _ in networks]
    completed = [with_bundles(spaces, own) for own in maps]
    relative = unit_shares(spaces, completed, weights)
    stems = [
        _stem_module(model, spaces.of(index), plan, stem, own, weight, shares)
        for index, (model, own, weight, shares) in enumerate(zip(networks, completed, weights, relative, strict=True))
    ]
    if whole:
        rest: nn.Module = _rest_module(networks, reference, spaces, plan, completed, weights)
    else:
        rest = multi_head(models, spaces, maps, weights, stop, stem, reference)
    by_name = {node.name: node for node in spaces.graph.nodes}
    common = [_is_common(spaces, by_name[name]) for name in plan.entry]
    return PreserveFirst(stems, rest, common, spaces.recording.outputs).eval()


def preserve_first_from_state(
    models: Mapping[str, nn.Module],
    spaces: Spaces,
    layers: int,
    state: Mapping[str, Tensor],
    weights: Sequence[float] | None = None,
    stop: str | None = None,
    whole: bool = True,
    reference: nn.Module | None = None,
) -> PreserveFirst:
    """A network again from its state dict; ``models`` (one for each stem) and ``reference`` give the layers, not the weights."""
    reference = next(iter(models.values())) if reference is None else reference
    stem = stem_nodes(spaces, layers)
    plan = _whole(spaces, stem) if whole else cut(reference, spaces, stop, stem)
    maps = [
        {space.name: _blank_map(spaces, plan, space, index, state) for space in spaces.movable}
        for index in range(len(models))
    ]
    return filled(preserve_first(models, spaces, layers, maps, weights, stop, whole, reference), state)


def _blank_map(spaces: Spaces, plan: Cut, space: Space, model: int, state: Mapping[str, Tensor]) -> UnitMap:
    """A map of the kind that the parts of a network were made with."""
    in_head = blank(spaces, plan, space.name, model, f"rest.heads.{model}", state)
    if not isinstance(in_head, Permutation):
        return in_head
    suffix = f"{_path('', space.name)}.matrix"
    in_stem = any(name.startswith(f"stems.{model}.") and name.endswith(suffix) for name in state)
    return Groups(np.arange(space.size), space.size) if in_stem else in_head


def _path(node: str, space: str) -> str:
    return f"merge_{node}_of_{space}".replace(".", "_") if node else f"_of_{space}".replace(".", "_")


def _whole(spaces: Spaces, stem: frozenset[str]) -> Cut:
    """The cut of a merge without heads: everything above the stems is the trunk."""
    nodes = list(spaces.graph.nodes)
    trunk = [node for node in nodes if node.name not in stem and node.op != "get_attr"]
    entry = [node for node in nodes if node.name in stem and any(user.name not in stem for user in node.users)]
    tensors = tensors_read(trunk)
    return Cut(
        "", tuple(node.name for node in trunk), (), (), tensors,
        tuple(space.name for space in spaces.movable), tuple(node.name for node in entry),
    )  # fmt: skip


def _is_common(spaces: Spaces, node: fx.Node) -> bool:
    """Whether a value is the same in all models: an input, or what is made without a model's tensors; or no numbers to average."""
    kind = spaces.recording.dtypes.get(node.name)
    if kind is None or not kind.is_floating_point:
        return True
    seen, queue = set(), [node]
    while queue:
        one = queue.pop()
        if one.op == "get_attr" and str(one.target) not in spaces.recording.constants:
            return False
        queue.extend(used for used in one.all_input_nodes if used not in seen)
        seen.update(one.all_input_nodes)
    return True


def _stem_module(
    model: nn.Module,
    spaces: Spaces,
    plan: Cut,
    stem: frozenset[str],
    own: Maps,
    weight: float,
    shares: Mapping[str, Tensor],
) -> fx.GraphModule:
    """A model's first layers, giving its part of the merged units."""
    part = Part(model, spaces)
    for node in spaces.graph.nodes:
        if node.name in stem:
            part.add(node)
    part.root["merge_share"] = torch.tensor(weight, dtype=torch.float64)
    by_name = {node.name: node for node in spaces.graph.nodes}
    outputs = []
    for name in plan.entry:
        value = part.copies[by_name[name]]
        if not _is_common(spaces, by_name[name]):
            value = part.graph.call_function(operator.mul, (value, part.graph.get_attr("merge_share")))
            for space, place in spaces.carried.get(name, ()):
                if space not in own:
                    continue
                relative = shares[space] / weight if weight else shares[space]
                path = _path(name, space)
                size = spaces.recording.shapes[name][place.axes[0]]
                part.root[path] = merged_units(own[space], place, size, relative)
                value = part.graph.call_module(path, (value,))
        outputs.append(value)
    part.graph.output(tuple(outputs))
    return part.module()


def _rest_module(
    networks: Sequence[nn.Module],
    reference: nn.Module,
    spaces: Spaces,
    plan: Cut,
    maps: Sequence[Maps],
    weights: Sequence[float],
) -> fx.GraphModule:
    """All that follows the stems, merged."""
    part = Part(reference, spaces)
    for name in plan.entry:
        part.place(name)
    inside = set(plan.trunk)
    for node in spaces.graph.nodes:
        if node.name in inside:
            part.add(node)
    module = part.module()
    states = [network.state_dict() for network in networks]
    load_resized(module, merge_folded(spaces, states, maps, weights, only=set(plan.trunk_tensors)))
    return module

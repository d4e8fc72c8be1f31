"""What operations do to units: one table, by the name of the operation.

Operations that only move entries need no rule of their own: they are run on the labels. Everything that multiplies,
adds or sums is a contraction (:func:`mergeline.spaces.labels.contract`). An operation that is not here and meets units
is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from mergeline.spaces.labels import Elements, Field, LabelError, Operand, Value, across, contract, joined, refit

__all__ = ["COLLAPSING", "CONSTANT", "Rule", "canonical", "rule_of"]

Result = Any
"""A value, or a tuple of them."""


class Tracer(Protocol):
    """What a rule may ask of the walk that it is part of."""

    elements: Elements
    values: dict[fx.Node, Any]

    def shape(self, node: fx.Node) -> tuple[int, ...]: ...
    def shapes_of(self, node: fx.Node) -> list[tuple[int, ...]]: ...
    def is_tensor(self, node: fx.Node) -> bool: ...
    def call(self, node: fx.Node, given: Mapping[fx.Node, Tensor]) -> Any: ...
    def real(self, value: Any) -> Any: ...
    def reads(self, value: Value, axis: int) -> None: ...
    def consumed(self, node: fx.Node, value: Value, axis: int) -> None: ...
    def met(self, first: fx.Node, a: Value, axis: int, second: fx.Node, b: Value, other: int) -> None: ...
    def channels_only(self, value: Value, spatial: int) -> Value: ...
    def grouped_axis(self, weight: Value, axis: int, groups: int, makes: bool, per_group: int) -> Tensor | None: ...


Rule = Callable[[Tracer, fx.Node, "Arguments"], Result]


class Arguments:
    """The arguments of a call by place or name."""

    def __init__(self, node: fx.Node) -> None:
        self.args, self.kwargs = node.args, node.kwargs

    def get(self, place: int, name: str, default: Any = None) -> Any:
        if len(self.args) > place:
            return self.args[place]
        return self.kwargs.get(name, default)


def canonical(name: str) -> str:
    """One name for an operation, its operator and its in-place form: ``__iadd__``, ``add_`` and ``add``."""
    if name.startswith("__") and name.endswith("__"):
        core = name[2:-2]
        if core in ("getitem", "setitem"):
            return core
        for prefix in ("i", "r"):
            if core[:1] == prefix and core[1:] in _OPERATORS:
                core = core[1:]
        return _OPERATORS.get(core, core)
    bare = name.rstrip("_") if name.endswith("_") and not name.startswith("_") else name
    return _SYNONYMS.get(bare, bare)


_OPERATORS = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "div": "div", "floordiv": "div", "matmul": "matmul",
    "pow": "pow", "mod": "remainder", "and": "logical_and", "or": "logical_or", "xor": "logical_xor", "neg": "neg",
    "invert": "logical_not", "eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "abs": "abs",
}  # fmt: skip
_SYNONYMS = {
    "multiply": "mul", "subtract": "sub", "rsub": "sub", "true_divide": "div", "divide": "div", "floor_divide": "div",
    "concat": "cat", "concatenate": "cat", "linalg_vector_norm": "norm", "vector_norm": "norm", "linalg_norm": "norm",
    "_getitem": "item", "swapdims": "transpose", "swapaxes": "transpose", "moveaxis": "movedim", "clip": "clamp",
    "max_pool1d_with_indices": "max_pool1d", "max_pool2d_with_indices": "max_pool2d", "boolean_dispatch": "max_pool2d",
    "scaled_dot_product_attention": "attention",
}  # fmt: skip


def rule_of(node: fx.Node) -> Rule | None:
    """The rule of a call."""
    name = str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))
    if node.target is getattr:
        return _move
    return RULES.get(canonical(name))


# -- helpers ----------------------------------------------------------------------------------------------------------


def _axis(axis: int, rank: int) -> int:
    return int(axis) % rank


def _axes(dims: Any, rank: int) -> list[int]:
    if dims is None:
        return list(range(rank))
    return [_axis(d, rank) for d in (dims if isinstance(dims, tuple | list) else [dims])]


def _values(tracer: Tracer, node: fx.Node) -> list[Value]:
    """Every tensor argument's value."""
    return [tracer.values[used] for used in _nodes(node) if isinstance(tracer.values.get(used), Value)]


def _first(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return source


def _nodes(node: fx.Node) -> list[fx.Node]:
    return [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, fx.Node)]


def _like(tracer: Tracer, node: fx.Node, fields: Sequence[Field]) -> Value:
    return Value(tracer.shape(node), tuple(fields))


# -- entry by entry ---------------------------------------------------------------------------------------------------


def _keep(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    """Functions of each entry alone."""
    first = _values(tracer, node)[0]
    return Value(tracer.shape(node), first.fields, first.uniform)


def _elementwise(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    """Entries that meet hold the same unit."""
    return elementwise(tracer, _values(tracer, node), tracer.shape(node))


def elementwise(tracer: Tracer, values: Sequence[Value], shape: tuple[int, ...]) -> Value:
    rank = len(shape)
    operands = [Operand(value, tuple(range(rank - len(value.shape), rank))) for value in values]
    if all(value.uniform for value in values):
        return Value(shape, uniform=True)
    return Value(shape, contract(tracer.elements, operands, range(rank)))


def _prelu(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    value, weight = _values(tracer, node)
    return _per_channel(tracer, value, [weight], 1)


def _per_channel(tracer: Tracer, value: Value, parameters: Sequence[Value | None], axis: int) -> Value:
    """Vectors of parameters against one axis of a value."""
    letters = tuple(range(len(value.shape)))
    operands = [Operand(value, letters)]
    operands += [Operand(own, (axis,)) for own in parameters if own is not None and own.shape != (1,)]
    return Value(value.shape, contract(tracer.elements, operands, letters))


def _glu(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    value = _values(tracer, node)[0]
    axis = _axis(arguments.get(1, "dim", -1), len(value.shape))
    halves = []
    size = value.shape[axis] // 2
    for begin in (0, size):
        shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
        fields = [refit(value.full(own).narrow(axis, begin, size)) for own in value.fields]
        halves.append(Value(shape, tuple(own for own in fields if own is not None)))
    return elementwise(tracer, halves, tracer.shape(node))


def _constant(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    return Value(tracer.shape(node), uniform=True)


def _no_units(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    return Value(tracer.shape(node)) if tracer.is_tensor(node) else None


def _in_order(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    """Operations that go along one axis in order: fine along any that carries no units."""
    value = _values(tracer, node)[0]
    axis = _axis(arguments.get(1, "dim", arguments.get(1, "axis", -1)), len(value.shape))
    if any(axis in own.axes for own in value.fields):
        raise LabelError("goes through units in order, which have none")
    result = tracer.shapes_of(node)
    made = [Value(shape, value.fields if len(shape) == len(value.shape) else ()) for shape in result]
    return made[0] if len(made) == 1 else tuple(made)


# -- moving entries ---------------------------------------------------------------------------------------------------


def _move(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    """Operations that only move entries: run on the labels."""
    moved = [used for used in _nodes(node) if isinstance(tracer.values.get(used), Value) and tracer.values[used].fields]
    source = node.args[0] if node.args else next(iter(node.kwargs.values()))
    if any(used is not source for used in moved):
        raise LabelError("chooses entries by a value that carries units")
    assert isinstance(source, fx.Node)
    value = tracer.values[source]
    found: list[list[Field]] = []
    shapes: list[tuple[int, ...]] = []
    for own in value.fields:
        full = value.full(own)
        result = tracer.call(node, {source: full})
        parts = [result] if isinstance(result, Tensor) else list(result)
        found = found or [[] for _ in parts]
        for fields, part in zip(found, parts, strict=True):
            fitted = refit(part)
            if fitted is not None:
                fields.append(fitted)
        shapes = [tuple(part.shape) for part in parts]
    if not found:
        shapes = tracer.shapes_of(node)
        found = [[] for _ in shapes]
    made = [Value(shape, tuple(fields), value.uniform) for shape, fields in zip(shapes, found, strict=True)]
    return made[0] if tracer.is_tensor(node) else tuple(made)


def _pad(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    """Padding. Along other axes than the units' it touches none; along theirs, new entries hold no unit if they are 0, and
    else one that must stay."""
    value, shape = tracer.values[_first(node)], tracer.shape(node)
    padding = list(arguments.get(1, "pad"))
    mode, fill = arguments.get(2, "mode", "constant"), arguments.get(3, "value", None) or 0
    amounts = {len(shape) - 1 - i // 2: (padding[i], padding[i + 1]) for i in range(0, len(padding), 2)}
    fields = []
    for own in value.fields:
        inside = [axis for axis in own.axes if any(amounts.get(axis, (0, 0)))]
        if not inside:
            fields.append(own)
            continue
        if mode != "constant":
            raise LabelError(f"pads units with each other (mode {mode!r})")
        flat = [amount for axis in reversed(own.axes) for amount in amounts.get(axis, (0, 0))]
        ids = torch.nn.functional.pad(own.ids, flat)
        if fill != 0:
            fresh = tracer.elements.new(ids.shape)
            tracer.elements.pin(fresh[ids == 0])
            ids = torch.where(ids == 0, fresh, ids)
        fields.append(Field(own.axes, ids))
    return Value(shape, tuple(fields), value.uniform and fill == 0)


def _shaped_like(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    """``reshape_as`` and its like: the other value lends its shape alone."""
    value, shape = tracer.values[_first(node)], tracer.shape(node)
    if canonical(str(node.target)) == "expand_as":
        fields = [refit(value.full(own).expand(shape)) for own in value.fields]
    else:
        fields = [refit(value.full(own).reshape(shape)) for own in value.fields]
    return Value(shape, tuple(own for own in fields if own is not None), value.uniform)


def _cat(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    nodes = arguments.get(0, "tensors")
    values = [tracer.values[used] for used in nodes]
    values = [value for value in values if value.shape != (0,)]
    shape = tracer.shape(node)
    dim = _axis(arguments.get(1, "dim", 0), len(shape))
    fields: list[Field] = []
    if all(len(value.fields) == 1 and value.fields[0].axes == (dim,) for value in values):
        return Value(shape, (Field((dim,), torch.cat([value.fields[0].ids for value in values])),))
    fulls = [[value.full(own) for own in value.fields] for value in values]
    for parts in joined(tracer.elements, values, fulls, dim):
        fitted = refit(torch.cat(parts, dim))
        if fitted is not None:
            fields.append(fitted)
    return Value(shape, (*fields, *_side_by_side(tracer, values, dim, dim)), all(v.uniform for v in values))


def _side_by_side(tracer: Tracer, values: Sequence[Value], dim: int, place: int | None) -> tuple[Field, ...]:
    """Fields along other axes than the one that values are laid along: entries that come in line hold the same unit."""
    operands = []
    rank = len(values[0].shape)
    for index, value in enumerate(values):
        outside = Value(value.shape, tuple(own for own in value.fields if dim not in own.axes), value.uniform)
        letters: list[Any] = list(range(rank))
        if place is not None:
            letters[dim] = ("part", index)
        operands.append(Operand(outside, tuple(letters)))
    return contract(tracer.elements, operands, range(rank))


def _stack(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    values = [tracer.values[used] for used in arguments.get(0, "tensors")]
    shape = tracer.shape(node)
    dim = _axis(arguments.get(1, "dim", 0), len(shape))
    letters = tuple(axis for axis in range(len(shape)) if axis != dim)
    operands = [Operand(value, letters) for value in values]
    return Value(shape, contract(tracer.elements, operands, range(len(shape))))


def _set_item(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    """``x[index] = y``: what is written holds the units that stood there; into a value without units it brings its own."""
    _, index, source = node.args
    value = tracer.values[_first(node)]
    written = tracer.values.get(source) if isinstance(source, fx.Node) else None
    if written is None or not written.fields:
        if not value.fields:
            return Value(value.shape)
        if written is not None and len(written.shape) and max(written.shape) > 1 and not written.uniform:
            raise LabelError("overwrites units with values that carry none")
        return Value(value.shape, value.fields)
    if value.fields:
        place = [value.full(own)[tracer.real(index)] for own in value.fields]
        views = [refit(part) for part in place]
        own = Value(tuple(place[0].shape), tuple(view for view in views if view is not None))
        elementwise(tracer, [own, written], tuple(place[0].shape))
        return Value(value.shape, value.fields)
    fields = []
    for own in written.fields:
        full = torch.zeros(value.shape, dtype=torch.int64)
        full[tracer.real(index)] = written.full(own)
        fitted = refit(full)
        if fitted is not None:
            fields.append(fitted)
    return Value(value.shape, tuple(fields))


def _item(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    source, index = node.args
    assert isinstance(source, fx.Node)
    parts = tracer.values[source]
    if isinstance(parts, tuple) and isinstance(index, int):
        return parts[index]
    return Value(tracer.shape(node))


def _embedding(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    weight = tracer.values[arguments.get(1, "weight")]
    shape = tracer.shape(node)
    own = [field for field in weight.fields if field.axes == (1,)]
    for field in weight.fields:
        if field.axes == (0,):
            tracer.elements.pin(field.ids)
    return Value(shape, tuple(Field((len(shape) - 1,), field.ids) for field in own))


# -- products ---------------------------------------------------------------------------------------------------------


def _linear(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    weight, bias = arguments.get(1, "weight"), arguments.get(2, "bias")
    source = arguments.get(0, "input")
    return linear(
        tracer, source, tracer.values[source], tracer.values[weight], None if bias is None else tracer.values[bias]
    )


def linear(tracer: Tracer, source: fx.Node, value: Value, weight: Value, bias: Value | None) -> Value:
    """``x W' + b`` over the last axis. ``source``: where ``value`` is seen."""
    rank = len(value.shape)
    rows: list[Any] = [("axis", axis) for axis in range(rank - 1)]
    tracer.reads(weight, 1)
    tracer.consumed(source, value, rank - 1)
    operands = [
        Operand(value, (*rows, "in")),
        Operand(weight, ("out", "in")[: len(weight.shape)] if len(weight.shape) == 2 else ("in",)),
    ]
    out = [*rows, "out"] if len(weight.shape) == 2 else rows
    fields = contract(tracer.elements, operands, out)
    made = Value((*value.shape[:-1], weight.shape[0]) if len(weight.shape) == 2 else value.shape[:-1], fields)
    return made if bias is None else elementwise(tracer, [made, bias], made.shape)


def _matmul(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    first, second = _nodes(node)[-2:]
    return _product(tracer, node, first, second)


def _product(tracer: Tracer, node: fx.Node, first: fx.Node, second: fx.Node) -> Value:
    a, b = tracer.values[first], tracer.values[second]
    shape = tracer.shape(node)
    batch = max(len(a.shape), len(b.shape)) - 2

    def letters(value: Value, last: tuple[str, ...]) -> tuple[Any, ...]:
        lead = len(value.shape) - len(last)
        return (*(("axis", batch - lead + i) for i in range(lead)), *last)

    left = letters(a, ("row", "sum")[-len(a.shape) :] if len(a.shape) < 2 else ("row", "sum"))
    right = letters(b, ("sum", "column") if len(b.shape) > 1 else ("sum",))
    out: list[Any] = [("axis", i) for i in range(max(batch, 0))]
    out += ["row"] if len(a.shape) > 1 else []
    out += ["column"] if len(b.shape) > 1 else []
    tracer.met(first, a, len(a.shape) - 1, second, b, max(len(b.shape) - 2, 0))
    return Value(shape, contract(tracer.elements, [Operand(a, left), Operand(b, right)], out))


def _addmm(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    """``addmm``, ``baddbmm``: a product and a sum."""
    bias, first, second = (arguments.get(i, name) for i, name in enumerate(("input", "mat1", "mat2")))
    return elementwise(tracer, [tracer.values[bias], _product(tracer, node, first, second)], tracer.shape(node))


def _einsum(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    equation = str(node.args[0]).replace(" ", "")
    operands: tuple[Any, ...] = node.args[1:]
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = tuple(operands[0])
    inputs, arrow, result = equation.partition("->")
    terms = inputs.split(",")
    if not arrow:
        counts = "".join(terms)
        result = "".join(sorted(letter for letter in set(counts) if counts.count(letter) == 1 and letter != "."))
    made = []
    for term, used in zip(terms, operands, strict=True):
        value = tracer.values[used]
        made.append(Operand(value, _letters(term, len(value.shape))))
    extra = len(tracer.shape(node)) - len(result.replace("...", ""))
    out = _letters(result, len(result.replace("...", "")) + extra)
    if len(operands) == 2:
        gone = [set(own.letters) - set(out) for own in made]
        shared = gone[0] & gone[1]
        places = [[i for i, letter in enumerate(own.letters) if letter in shared] for own in made]
        for mine, other in ((0, 1), (1, 0)):
            for a in places[mine][:1]:
                tracer.met(operands[mine], made[mine].value, a, operands[other], made[other].value, places[other][0])
                break
            break
    return Value(tracer.shape(node), contract(tracer.elements, made, out))


def _letters(term: str, rank: int) -> tuple[Any, ...]:
    if "..." not in term:
        return tuple(term)
    before, after = term.split("...")
    middle = rank - len(before) - len(after)
    return (*before, *(("dots", middle - i) for i in range(middle)), *after)


def _attention(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    query, key, value = (arguments.get(i, name) for i, name in enumerate(("query", "key", "value")))
    if arguments.get(7, "enable_gqa", False):
        raise LabelError("shares keys among heads (enable_gqa), which is not supported")
    mask = arguments.get(3, "attn_mask")
    q, k, v = (tracer.values[used] for used in (query, key, value))
    lead: list[Any] = [("axis", i) for i in range(len(q.shape) - 2)]
    tracer.met(query, q, len(q.shape) - 1, key, k, len(k.shape) - 1)
    scores = Value(
        (*q.shape[:-1], k.shape[-2]),
        contract(
            tracer.elements,
            [Operand(q, (*lead, "row", "sum")), Operand(k, (*lead, "column", "sum"))],
            [*lead, "row", "column"],
        ),
    )
    if isinstance(mask, fx.Node):
        scores = elementwise(tracer, [scores, tracer.values[mask]], scores.shape)
    across(tracer.elements, scores, [len(scores.shape) - 1], "softmax")
    fields = contract(
        tracer.elements,
        [Operand(scores, (*lead, "row", "column")), Operand(v, (*lead, "column", "out"))],
        [*lead, "row", "out"],
    )
    return Value(tracer.shape(node), fields)


def _convolution(transposed: bool) -> Rule:
    """Convolutions; a transposed one has its weight's first two axes the other way round."""
    names = ("in", "out") if transposed else ("out", "in")

    def rule(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
        source = arguments.get(0, "input")
        weight, bias = tracer.values[arguments.get(1, "weight")], arguments.get(2, "bias")
        groups = int(arguments.get(6, "groups", 1))
        value = tracer.channels_only(tracer.values[source], len(weight.shape) - 2)
        channel = len(value.shape) - len(weight.shape) + 1
        if groups > 1:
            return _grouped(tracer, node, source, value, weight, bias, channel, groups, transposed)
        tracer.reads(weight, names.index("in"))
        return _convolved(tracer, node, source, value, weight, bias, channel, names)

    return rule


def _convolved(
    tracer: Tracer,
    node: fx.Node,
    source: fx.Node,
    value: Value,
    weight: Value,
    bias: Any,
    channel: int,
    names: tuple[str, str],
) -> Value:
    shape = tracer.shape(node)
    tracer.consumed(source, value, channel)
    letters: list[Any] = [("axis", i) for i in range(len(value.shape))]
    letters[channel] = "in"
    kernel = tuple(("kernel", i) for i in range(len(weight.shape) - 2))
    flat = Value(weight.shape, tuple(own for own in weight.fields if set(own.axes) <= {0, 1}))
    out: list[Any] = [("axis", i) for i in range(len(shape))]
    out[channel] = "out"
    fields = contract(tracer.elements, [Operand(value, tuple(letters)), Operand(flat, (*names, *kernel))], out)
    made = Value(shape, fields)
    return made if bias is None else _per_channel(tracer, made, [tracer.values[bias]], channel)


def _grouped(
    tracer: Tracer,
    node: fx.Node,
    source: fx.Node,
    value: Value,
    weight: Value,
    bias: Any,
    channel: int,
    groups: int,
    transposed: bool,
) -> Value:
    """Units of a group make units of that group alone: both move as members of bundles, one a group."""
    shape = tracer.shape(node)
    tracer.consumed(source, value, channel)
    n_in, n_out = value.shape[channel] // groups, shape[channel] // groups
    own = next((own.ids for own in value.fields if own.axes == (channel,)), None)
    made = tracer.grouped_axis(weight, 1 if transposed else 0, groups, makes=True, per_group=n_out)
    assert made is not None
    read = tracer.grouped_axis(weight, 0 if transposed else 1, groups, makes=False, per_group=n_in)
    if own is None:
        if read is not None:
            tracer.elements.pin(read)
        if value.shape[channel] > 1 and not value.uniform:
            tracer.elements.pin(made)
    elif n_in == n_out == 1:
        tracer.elements.tie(own, made)
        if read is not None:
            tracer.elements.tie(own, read)
    else:
        if read is not None:
            tracer.elements.tie(own, read)
        bundles = own if n_in == 1 else tracer.elements.bundles([groups])
        if n_in > 1:
            tracer.elements.join(own.reshape(groups, n_in), bundles[:, None])
        tracer.elements.join(made.reshape(groups, n_out), bundles[:, None])
    result = Value(shape, (Field((channel,), made),))
    return result if bias is None else _per_channel(tracer, result, [tracer.values[bias]], channel)


# -- norms, sums and pools --------------------------------------------------------------------------------------------


def _optional(tracer: Tracer, node: Any) -> Value | None:
    return tracer.values[node] if isinstance(node, fx.Node) else None


def _batch_norm(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    value = tracer.values[arguments.get(0, "input")]
    parameters = [
        _optional(tracer, arguments.get(i, name))
        for i, name in enumerate(("running_mean", "running_var", "weight", "bias"), start=1)
    ]
    return _per_channel(tracer, value, parameters, 1)


def _group_norm(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    value = tracer.values[arguments.get(0, "input")]
    groups = int(arguments.get(1, "num_groups"))
    parameters = [_optional(tracer, arguments.get(i, name)) for i, name in ((2, "weight"), (3, "bias"))]
    made = _per_channel(tracer, value, parameters, 1)
    channels = value.shape[1]
    for own in made.fields:
        if own.axes == (1,) and groups < channels:
            tracer.elements.compare(own.ids, "GroupNorm")
            if groups > 1:
                bundles = tracer.elements.bundles([groups])
                tracer.elements.join(own.ids.reshape(groups, -1), bundles[:, None])
        elif own.axes != (1,):
            raise LabelError("normalises groups of channels of a value whose units are not its channels")
    return made


def _layer_norm(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    value = tracer.values[arguments.get(0, "input")]
    shape = arguments.get(1, "normalized_shape")
    count = len(shape) if isinstance(shape, tuple | list) else 1
    axes = list(range(len(value.shape) - count, len(value.shape)))
    letters = tuple(range(len(value.shape)))
    operands = [Operand(value, letters)]
    for place, name in ((2, "weight"), (3, "bias")):
        own = _optional(tracer, arguments.get(place, name))
        if own is not None:
            operands.append(Operand(own, tuple(axes)))
    made = Value(value.shape, contract(tracer.elements, operands, letters))
    across(tracer.elements, made, axes, "LayerNorm")
    return made


def _normalize(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    value = tracer.values[arguments.get(0, "input")]
    axes = _axes(arguments.get(2, "dim", 1), len(value.shape))
    across(tracer.elements, value, axes, "normalize")
    return Value(value.shape, value.fields)


def _softmax(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    value = tracer.values[arguments.get(0, "input")]
    axes = _axes(arguments.get(1, "dim", -1), len(value.shape))
    across(tracer.elements, value, axes, "softmax")
    return Value(value.shape, value.fields)


def _reduce(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
    """Sums, means, norms and extremes over some axes; in any order the same."""
    values = _values(tracer, node)
    if len(values) > 1:  # torch.max(a, b)
        return _elementwise(tracer, node, arguments)
    value = values[0]
    name = canonical(str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", "")))
    place = 2 if name == "norm" else 1
    dims = arguments.get(place, "dim", arguments.kwargs.get("axis"))
    axes = _axes(dims, len(value.shape)) if dims != () else list(range(len(value.shape)))
    shapes = tracer.shapes_of(node)
    keepdim = len(shapes[0]) == len(value.shape)
    for own in value.fields:
        if set(own.axes) & set(axes):
            tracer.elements.compare(own.ids, name)
    left = [axis for axis in range(len(value.shape)) if axis not in axes]
    fields = contract(tracer.elements, [Operand(value, tuple(range(len(value.shape))))], left)
    if keepdim:
        fields = tuple(Field(tuple(left[axis] for axis in own.axes), own.ids) for own in fields)
    made = [Value(shape, fields) for shape in shapes]
    return made[0] if tracer.is_tensor(node) else tuple(made)


def _pool(spatial: int | None) -> Rule:
    """Pooling and resampling over the last axes: units stay where they are, on the axes before them."""

    def rule(tracer: Tracer, node: fx.Node, arguments: Arguments) -> Result:
        value = _values(tracer, node)[0]
        count = len(value.shape) - 2 if spatial is None else spatial
        value = tracer.channels_only(value, count)
        made = [Value(shape, value.fields) for shape in tracer.shapes_of(node)]
        return made[0] if tracer.is_tensor(node) else tuple(made)

    return rule


_UNARY = (
    "relu", "relu6", "gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "rrelu", "hardswish",
    "hardsigmoid", "hardtanh", "sigmoid", "tanh", "softplus", "softsign", "tanhshrink", "hardshrink", "softshrink",
    "threshold", "logsigmoid", "log_sigmoid", "exp", "expm1", "log", "log1p", "log2", "sqrt", "rsqrt", "square",
    "abs", "neg", "reciprocal", "sin", "cos", "erf", "clamp", "clamp_min", "clamp_max", "round", "floor", "ceil",
    "trunc", "sign", "nan_to_num", "float", "half", "double", "bfloat16", "to", "type", "type_as", "int", "long",
    "bool", "contiguous", "clone", "detach", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout",
    "feature_dropout", "feature_alpha_dropout", "stochastic_depth", "isnan", "isinf", "isfinite", "logical_not",
    "identity", "positive", "requires_grad", "cpu", "cuda", "logit", "fill_diagonal", "deg2rad", "atan", "tan",
    "sinh", "cosh", "asinh", "acos", "asin", "digamma", "lgamma", "frac",
)  # fmt: skip
_BINARY = (
    "add", "sub", "mul", "div", "pow", "maximum", "minimum", "fmax", "fmin", "where", "lerp", "addcmul", "addcdiv",
    "masked_fill", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor", "remainder",
    "fmod", "atan2", "hypot", "copysign", "xlogy", "float_power",
)  # fmt: skip
_MOVING = (
    "view", "reshape", "permute", "transpose", "flatten", "unflatten", "squeeze", "unsqueeze", "chunk", "split",
    "split_with_sizes", "tensor_split", "unbind", "getitem", "narrow", "select", "index_select", "expand",
    "broadcast_to", "repeat", "repeat_interleave", "tile", "roll", "flip", "fliplr", "flipud", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "movedim", "t", "unfold", "diagonal", "ravel", "rot90", "take_along_dim",
    "gather", "adjoint", "hsplit", "vsplit", "dsplit", "swapaxes", "atleast_1d", "atleast_2d", "atleast_3d",
    "as_strided", "native_channel_shuffle",
)  # fmt: skip
CONSTANT = (
    "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "zeros", "ones", "full", "zero",
    "fill", "empty_like", "new_empty",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, _keep),
    **dict.fromkeys(_BINARY, _elementwise),
    **dict.fromkeys(_MOVING, _move),
    **dict.fromkeys(CONSTANT, _constant),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "sort", "topk", "argsort", "argmax", "argmin", "flip_in_order"), _in_order),
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "max", "min", "norm", "std", "var", "logsumexp", "any", "all", "prod", "nanmean"), _reduce
    ),
    **dict.fromkeys(("softmax", "log_softmax", "softmin"), _softmax),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution(transposed=False)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution(transposed=True)),
    **{f"{kind}_pool{n}d": _pool(n) for kind in ("max", "avg", "lp", "adaptive_avg", "adaptive_max") for n in (1, 2, 3)},
    **dict.fromkeys(("interpolate", "upsample", "upsample_nearest", "upsample_bilinear", "grid_sample"), _pool(None)),
    **dict.fromkeys(("batch_norm", "instance_norm"), _batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm"), _layer_norm),
    **dict.fromkeys(("matmul", "bmm", "mm", "mv", "dot"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm"), _addmm),
    **dict.fromkeys(("reshape_as", "view_as", "expand_as"), _shaped_like),
    "group_norm": _group_norm, "normalize": _normalize, "linear": _linear, "einsum": _einsum, "attention": _attention,
    "prelu": _prelu, "glu": _glu, "pad": _pad, "cat": _cat, "stack": _stack,
    "setitem": _set_item, "item": _item, "embedding": _embedding,
    **dict.fromkeys(("masked_fill_value", "size", "_shape_as_tensor", "arange", "linspace", "meshgrid", "one_hot",
                     "_batch_times", "input_device"), _no_units),
}  # fmt: skip
"""By canonical name."""

COLLAPSING = (
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "avg_pool2d",
        "flatten",
        "reshape",
        "view",
        "mean",
        "squeeze",
        "dropout",
        "getitem",
        "select",
        "contiguous",
)  # fmt: skip
"""Operations that a space is observed before: pooling, flattening and choosing among positions."""

"""What torch asks of an operator besides its kernel: shapes of results, gradients, vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import (
    ELEMENTWISE_TYPE_PROMOTION_KIND,
    compute_elementwise_output_strides,
    elementwise_dtypes,
)
from torch.autograd import forward_ad

from ..shared import any_shared


def _tensors_of(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The tensor arguments of a call by name."""
    named = dict(zip([p.name for p in operator.parameters if not p.by_keyword], args, strict=False))
    named |= kwargs
    return {p.name: named[p.name] for p in operator.parameters if p.type is None}


def _result_dtype(operator: Any, tensors: dict[str, Any]) -> torch.dtype:
    kind = ELEMENTWISE_TYPE_PROMOTION_KIND[operator.promotion]
    values = [t for name, t in tensors.items() if name not in operator.masks]
    return elementwise_dtypes(*values, type_promotion_kind=kind)[1]


def fake(operator: Any) -> Callable[..., Any]:
    """Results without values: the broadcast shape, laid out as TensorIterator lays it out."""

    def of(*args: Any, **kwargs: Any) -> Any:
        tensors = _tensors_of(operator, args, kwargs)
        dtype = _result_dtype(operator, tensors)
        real = [t for t in tensors.values() if isinstance(t, Tensor)]
        device = next((t.device for t in real if t.dim() or t.device.type != "cpu"), real[0].device)
        views = torch.broadcast_tensors(*real)
        strides = compute_elementwise_output_strides(*views)
        made = tuple(
            torch.empty_strided(views[0].shape, strides, dtype=dtype, device=device) for _ in range(operator.outputs)
        )
        return made[0] if operator.outputs == 1 else made

    return of


def _written(parsed: Any) -> list[str]:
    """The names of a form's outputs."""
    return [a.name for a in parsed.arguments if a.kwarg_only and a.alias_info is not None and a.alias_info.is_write]


def fake_out(schema: str) -> Callable[..., Any]:
    """Of an overload that writes: the tensors that it is given to write to, or nothing where it gives nothing back."""
    parsed = torch._C.parse_schema(schema)
    names = _written(parsed)

    def of(*args: Any, **kwargs: Any) -> Any:
        if not parsed.returns:
            return None
        outs = tuple(kwargs[name] for name in names)
        return outs[0] if len(outs) == 1 else outs

    return of


def functional_out(operator: Any, schema: str) -> Callable[..., Any]:
    """An out= form where aot_autograd makes a program without writes: the functional form, and copies that it sees."""
    names = _written(torch._C.parse_schema(schema))

    def of(*args: Any, **kwargs: Any) -> Any:
        def inside(value: Any) -> Any:
            if not isinstance(value, Tensor) or not torch._is_functional_tensor(value):
                return value
            torch._sync(value)
            return torch._from_functional_tensor(value)

        outs = [kwargs.pop(name) for name in names]
        function = getattr(torch.ops.flag_gems, operator.name).default
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.Functionalize)):
            results = function(*map(inside, args), **{name: inside(value) for name, value in kwargs.items()})
            for out, value in zip(outs, (results,) if len(outs) == 1 else results, strict=True):
                # An output of another dtype or shape is an error, which the form itself would raise.
                if out.shape != value.shape or out.dtype != value.dtype:
                    raise RuntimeError(f"flag_gems::{operator.name}: an output of another shape or dtype")
                torch._functionalize_replace(out, value)
                torch._functionalize_commit_update(out)
                torch._sync(out)
        return outs[0] if len(outs) == 1 else tuple(outs)

    return of


def refuses_gradient(name: str, qualified: str) -> Callable[..., Any]:
    """The Autograd kernel of what has no gradient: an error where one is wanted. Autograd learns of what is written."""
    out = qualified.endswith(".out")
    base, _, overload = qualified.removeprefix("flag_gems::").partition(".")

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args, **kwargs):
            if out:
                raise RuntimeError(
                    f"{name}(): functions with out=... arguments don't support automatic differentiation, but one of "
                    "the arguments requires grad."
                )
            raise RuntimeError(
                f'flag_gems::{name} has no gradient: make it with grad="auto", or give the gradients as expressions; '
                "or call it under torch.no_grad()"
            )
        op = getattr(getattr(torch.ops.flag_gems, base), overload or "default")
        with torch._C._AutoDispatchBelowAutograd():
            result = op.redispatch(keyset & torch._C._after_autograd_keyset, *args, **kwargs)
        if op._schema.is_mutable:
            named = dict(zip((a.name for a in op._schema.arguments), args, strict=False)) | kwargs
            torch.autograd.graph.increment_version([named[a.name] for a in op._schema.arguments if a.is_write])
        return result

    return kernel


def _summed(grad: Tensor, like: Tensor) -> Tensor:
    """A gradient brought to the shape and dtype of an input that was broadcast."""
    if grad.shape != like.shape:
        lead = grad.dim() - like.dim()
        dims = [*range(lead), *(lead + d for d, n in enumerate(like.shape) if n == 1 and grad.shape[lead + d] != 1)]
        if type(grad) is Tensor and dims:
            from .. import ops

            grad = ops.sum(grad, dims, True)
        elif dims:
            grad = grad.sum(dims, keepdim=True)
        grad = grad.reshape(like.shape)
    return grad if grad.dtype == like.dtype else grad.to(like.dtype)


def _by_composition(
    operator: Any, values: dict[str, Any], needed: tuple[str, ...], grads: tuple[Any, ...]
) -> dict[str, Tensor]:
    """The gradients of the inputs `needed`, through the operators that a row is composed of."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = {name: values[name] if again else values[name].detach().requires_grad_() for name in needed}
        inputs = {name: value.view_as(value) for name, value in inputs.items()}
        made = operator.composed(**{p.name: inputs.get(p.name, values[p.name]) for p in operator.parameters})
        pairs = [
            (result, grad)
            for result, grad in zip((made,) if isinstance(made, Tensor) else made, grads, strict=True)
            if grad is not None and result is not None and result.requires_grad
        ]
        if not pairs:
            return {}
        found = torch.autograd.grad(
            [result for result, _ in pairs],
            list(inputs.values()),
            [grad for _, grad in pairs],
            create_graph=again,
            allow_unused=True,
        )
    return {name: grad for name, grad in zip(inputs, found, strict=True) if grad is not None}


def autograd(operator: Any, positional: list[Any] | None = None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The backward pass of a call with these arguments (those without keyword when left out), and what it saves."""
    if positional is None:
        positional = [p for p in operator.parameters if not p.by_keyword]
    tensor_names = [p.name for p in operator.parameters if p.type is None]
    if not operator.elementwise and operator.composed is None:  # what the backward pass does not read need not live
        read = {name for step in operator.steps(tuple(tensor_names), {}) for name in step.tensors}
        tensor_names = [name for name in tensor_names if name in read]

    def setup(
        ctx: Any, inputs: tuple[Any, ...], output: Any, keyword_only_inputs: dict[str, Any] | None = None
    ) -> None:
        named = dict(zip([p.name for p in positional], inputs, strict=False)) | (keyword_only_inputs or {})
        kept = ()
        if operator.kept:
            results = dict(zip(operator.results, (output,) if isinstance(output, Tensor) else output, strict=True))
            kept = tuple(results[name] for name in operator.kept)
        ctx.save_for_backward(*(named[name] for name in tensor_names), *kept)
        if operator.constant:
            ctx.mark_non_differentiable(*(output[i] for i in operator.constant))
        ctx.scalars = {p.name: named.get(p.name, p.default) for p in operator.parameters if p.type is not None}

    def backward(ctx: Any, *grads: Any) -> Any:
        saved = dict(zip((*tensor_names, *operator.kept), ctx.saved_tensors, strict=True))
        given = positional[: len(ctx.needs_input_grad)]  # torch leaves out arguments that have their default value
        wanted = zip(given, ctx.needs_input_grad, strict=True)
        needed = tuple(p.name for p, needs in wanted if needs and p.type is None and p.name not in operator.masks)
        values = {**saved, **dict(zip(operator.grads, grads, strict=True)), **ctx.scalars}
        found: dict[str, Tensor] = {}
        if operator.by_composition:
            found = _by_composition(operator, values, needed, grads)
            results = tuple(found.get(p.name) for p in given)
            return results if len(results) > 1 else results[0]
        for step in operator.steps(needed, ctx.scalars):
            args = [values[name] for name in step.tensors]
            made = step.function(*args, **{name: values[name] for name in step.scalars})
            for name, value in zip(step.results, (made,) if isinstance(made, Tensor) else made, strict=True):
                if name in needed:
                    # Where it reads few of the tensors it has not the whole shape.
                    if operator.elementwise and value.shape != grads[0].shape:
                        value = value.expand(grads[0].shape)
                    part = _summed(value, saved[name]) if operator.elementwise else value
                    found[name] = found[name] + part if name in found else part
        rest = tuple(name for name in needed if name not in found)
        if rest and operator.composed is not None:  # what the row gives no gradient of
            found |= _by_composition(operator, values, rest, grads)
        elif rest and not operator.elementwise:
            raise RuntimeError(f"flag_gems::{operator.name} has no gradient in {', '.join(rest)}")
        results = tuple(found.get(p.name) for p in given)
        return results if len(results) > 1 else results[0]

    return backward, setup


def vmap(operator: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """A batch is one more dimension in front of all."""

    def of(info: Any, in_dims: tuple[Any, ...], *args: Any, **kwargs: Any) -> Any:
        rank = max(
            (a.dim() - (d is not None) for a, d in zip(args, in_dims, strict=True) if isinstance(a, Tensor)), default=0
        )
        moved = []
        for arg, dim in zip(args, in_dims, strict=True):
            if isinstance(arg, Tensor) and dim is not None:
                arg = arg.movedim(dim, 0)
                arg = arg.reshape(arg.shape[0], *[1] * (rank - arg.dim() + 1), *arg.shape[1:])
            moved.append(arg)
        return call(*moved, **kwargs), (0 if operator.outputs == 1 else (0,) * operator.outputs)

    return of


def seen_by_modes(tensors: list[Any]) -> bool:
    """True when a mode or a subclass must see the call as torch's operator."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or (torch._C._is_torch_function_mode_enabled() and torch._C._len_torch_function_stack() > 0)
        or any(isinstance(t, Tensor) and type(t) not in (Tensor, torch.nn.Parameter) for t in tensors)
    )


def _composed_of_shared(operator: Any, packet: Any) -> Callable[..., Any]:
    """torch's operator; of tensors that are shared out, of which it knows nothing, what a row is composed of."""
    if operator.composed is None:
        return packet

    def call(*args: Any, **kwargs: Any) -> Any:
        given = any_shared([*args, *kwargs.values()])
        return (operator.composed if given else packet)(*args, **kwargs)

    return call


def recorded(operator: Any, packet: Any) -> Callable[..., Any]:
    """What runs when autograd or a transform wants to see a call: an autograd.Function, which costs less than the way
    through torch's operator and has the transforms of torch.func; torch's operator for everything else."""
    if not operator.differentiable:
        return _composed_of_shared(operator, packet)
    parameters = list(operator.parameters)
    backward_pass, saves = autograd(operator, parameters)
    otherwise = _composed_of_shared(operator, packet)
    names = [p.name for p in parameters]
    positional = sum(not p.by_keyword for p in parameters)

    def run(*values: Any) -> Any:
        return operator._function(
            *values[:positional], **dict(zip(names[positional:], values[positional:], strict=True))
        )

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *values: Any) -> Any:
            result = run(*values)
            saves(ctx, values, result)
            return result

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return backward_pass(ctx, *grads)

    class Transformed(torch.autograd.Function):
        """The form that transforms can take, which costs more."""

        @staticmethod
        def forward(*values: Any) -> Any:
            return run(*values)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            saves(ctx, inputs, output)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return backward_pass(ctx, *grads)

        vmap = staticmethod(vmap(operator, run))

    for made in (Recorded, Transformed):
        made.__name__ = made.__qualname__ = operator.name

    def call(*args: Any, **kwargs: Any) -> Any:
        values = dict(zip(names[:positional], args, strict=False))
        fits = len(args) <= positional and not (values.keys() & kwargs.keys()) and kwargs.keys() <= set(names)
        values |= kwargs
        for p in parameters:
            if p.has_default:
                values.setdefault(p.name, p.default)
        if (
            not fits
            or len(values) < len(names)
            or seen_by_modes([values[p.name] for p in parameters if p.type is None])
        ):
            return otherwise(*args, **kwargs)
        if operator.composed is not None and (
            torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
        ):
            return operator.composed(*(values[name] for name in names))
        if torch._C._are_functorch_transforms_active():
            return Transformed.apply(*(values[name] for name in names))
        # Without gradients there is nothing to record: what the builtin saw is torch's matter, and Recorded would come
        # back to it.
        return Recorded.apply(*(values[name] for name in names)) if torch.is_grad_enabled() else packet(*args, **kwargs)

    return call

"""The op's activations in the text syntax of ONNX, for the portable body."""

from __future__ import annotations

_GELU_OPSET = 20


def activation_statements(activation: str, v: str, out: str, opset: int) -> list[str]:
    """Statements in the ONNX text syntax that compute ``out`` from ``v`` with one of the op's activations."""
    if activation == "identity":
        return [f"{out} = Identity ({v})"]
    if activation == "relu":
        return [f"{out} = Relu ({v})"]
    if activation == "silu":
        return [f"{out}_gate = Sigmoid ({v})", f"{out} = Mul ({v}, {out}_gate)"]
    approximate = "tanh" if activation == "gelu_tanh" else "none"
    if opset >= _GELU_OPSET:
        return [f'{out} = Gelu <approximate = "{approximate}"> ({v})']
    return _decomposed_gelu(v, out, tanh=approximate == "tanh")


def _decomposed_gelu(v: str, out: str, *, tanh: bool) -> list[str]:
    """Gelu before opset 20, in the form that ONNX Runtime fuses."""
    if tanh:
        inner = [
            *_scalar(f"{out}_cubic", 0.044715, v),
            *_scalar(f"{out}_scale", 0.7978845608028654, v),
            f"{out}_v2 = Mul ({v}, {v})",
            f"{out}_v3 = Mul ({out}_v2, {v})",
            f"{out}_c3 = Mul ({out}_v3, {out}_cubic)",
            f"{out}_poly = Add ({v}, {out}_c3)",
            f"{out}_inner = Mul ({out}_poly, {out}_scale)",
            f"{out}_odd = Tanh ({out}_inner)",
        ]
    else:
        inner = [
            *_scalar(f"{out}_root2", 1.4142135623730951, v),
            f"{out}_inner = Div ({v}, {out}_root2)",
            f"{out}_odd = Erf ({out}_inner)",
        ]
    return [
        *inner,
        *_scalar(f"{out}_one", 1.0, v),
        *_scalar(f"{out}_half", 0.5, v),
        f"{out}_shifted = Add ({out}_odd, {out}_one)",
        f"{out}_twice = Mul ({v}, {out}_shifted)",
        f"{out} = Mul ({out}_twice, {out}_half)",
    ]


def _scalar(name: str, value: float, like: str) -> list[str]:
    return [
        f"{name}_float = Constant <value_float = {value!r}> ()",
        f"{name} = CastLike ({name}_float, {like})",
    ]

"""The plugin as TensorRT drives it, through the C interface of plugins/tensorrt/harness/life_cycle.cpp."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int32, c_int64, c_void_p
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plugin_cases import OPERATORS, TYPES, Case, GluCase, QuantizedCase, QuantizedGluCase
from plugin_core import CPointers, load, pointers

if TYPE_CHECKING:
    from pathlib import Path

    Fields = dict[str, int | str | bytes]

FIELD_INT32, FIELD_CHAR = 5, 6


class CField(ctypes.Structure):
    _fields_ = (("name", c_char_p), ("data", c_char_p), ("type", c_int32), ("length", c_int32))


def fields_of(case: Case, **changes: int | str | bytes | None) -> Fields:
    """Node attributes as the ONNX parser hands them over; None leaves one out."""
    fields: dict[str, int | str | bytes | None] = {
        "num_learners": case.num_learners,
        "min_learners": case.min_learners,
        "activation": case.activation,
        "plugin_version": "1",
        "plugin_namespace": "",
    }
    if case.allow_tf32:
        fields["allow_tf32"] = 1
    if case.quantized:
        fields["dynamic"] = 0
    return {name: value for name, value in (fields | changes).items() if value is not None}


class Harness:
    """``acm_plugin_harness``."""

    def __init__(self, library: Path, driver: Path | str) -> None:
        self.c = load(library, driver)
        for name in ("create", "clone", "attach", "round_trip"):
            getattr(self.c, f"acm_{name}").restype = c_void_p
        for name in ("log", "timing_id"):
            getattr(self.c, f"acm_{name}").restype = c_char_p
        for name in ("workspace", "run"):
            getattr(self.c, f"acm_{name}").restype = c_int64

    @property
    def is_v3(self) -> bool:
        return bool(self.c.acm_tensorrt_version() >= 10)

    def take_log(self) -> str:
        text = str(self.c.acm_log().decode())
        self.c.acm_clear_log()
        return text

    def create(self, fields: Fields, operator: str = "GatedLearners", *, runtime_phase: bool = False) -> Plugin | None:
        number = list(OPERATORS).index(operator)
        return self.wrap(self.c.acm_create(number, c_fields(fields), len(fields), int(runtime_phase)), operator)

    def wrap(self, handle: int | None, operator: str) -> Plugin | None:
        return Plugin(self, c_void_p(handle), operator) if handle else None

    def run(self, case: Case, addresses: CPointers, *, workspace_size: int, tactic: int = 0, times: int = 1) -> int:
        """The whole life of a plugin; returns the bytes of workspace that it needs, or a negative number."""
        fields = fields_of(case)
        return int(
            self.c.acm_run(
                list(OPERATORS).index(case.operator),
                c_fields(fields),
                len(fields),
                case.tensors(),
                byref(addresses),
                c_int64(workspace_size),
                tactic,
                times,
            )
        )


class Plugin:
    """One plugin object of either interface."""

    def __init__(self, harness: Harness, handle: c_void_p, operator: str) -> None:
        self._harness, self._c, self._handle, self._operator = harness, harness.c, handle, operator

    def __del__(self) -> None:
        self._c.acm_destroy(self._handle)

    def clone(self) -> Plugin:
        return self._made(self._c.acm_clone(self._handle))

    def attach(self) -> Plugin:
        return self._made(self._c.acm_attach(self._handle))

    def round_trip(self) -> Plugin:
        return self._made(self._c.acm_round_trip(self._handle))

    def supports(self, pos: int, tensors: Any) -> bool:
        return bool(self._c.acm_supports(self._handle, pos, tensors))

    def output_types(self, tensors: Any) -> tuple[str, str] | None:
        out = (c_int32 * 2)()
        if self._c.acm_output_types(self._handle, tensors, out) != 0:
            return None
        return TYPES[out[0]], TYPES[out[1]]

    def output_shapes(self, tensors: Any) -> list[tuple[int, ...]] | None:
        if self._c.acm_output_shapes(self._handle, tensors) != 0:
            return None
        return [tuple(tensor.dims[: tensor.rank]) for tensor in tensors[-2:]]

    def configure(self, current: Any, smallest: Any, largest: Any) -> int:
        return int(self._c.acm_configure(self._handle, current, smallest, largest))

    def workspace(self, current: Any, smallest: Any, largest: Any) -> int:
        return int(self._c.acm_workspace(self._handle, current, smallest, largest))

    def tactics(self) -> list[int]:
        out = (c_int32 * 64)()
        return list(out[: self._c.acm_tactics(self._handle, out, 64)])

    def set_tactic(self, tactic: int) -> int:
        return int(self._c.acm_set_tactic(self._handle, tactic))

    def timing_id(self) -> str:
        return str(self._c.acm_timing_id(self._handle).decode())

    def change_shapes(self, tensors: Any) -> int:
        return int(self._c.acm_shape_change(self._handle, tensors))

    def enqueue(self, tensors: Any, addresses: CPointers | None = None) -> int:
        given = addresses or pointers(OPERATORS[self._operator])
        return int(self._c.acm_enqueue(self._handle, tensors, byref(given)))

    def _made(self, handle: int | None) -> Plugin:
        plugin = self._harness.wrap(handle, self._operator)
        assert plugin, self._harness.take_log()
        return plugin


def c_fields(fields: Fields) -> Any:
    """As PluginField: an int as int32, a str with its NUL, bytes as characters without one."""
    return (CField * max(len(fields), 1))(*(_c_field(name, value) for name, value in fields.items()))


def _c_field(name: str, value: int | str | bytes) -> CField:
    if isinstance(value, int):
        return CField(name.encode(), value.to_bytes(4, "little", signed=True), FIELD_INT32, 1)
    data = value if isinstance(value, bytes) else value.encode() + b"\0"
    return CField(name.encode(), data, FIELD_CHAR, len(data))


CASE = Case(leading=(2, 50), model_dim=64, hidden_dim=32, num_learners=4, min_learners=1)
SMALLEST, LARGEST = replace(CASE, leading=(1, 1)), replace(CASE, leading=(8, 200))
CURRENT = replace(CASE, leading=(-1, -1))

SIZES: dict[str, Any] = {"leading": (2, 50), "model_dim": 80, "hidden_dim": 24, "num_learners": 3, "min_learners": 1}
QUANTIZED, GLU, QUANTIZED_GLU = QuantizedCase(**SIZES), GluCase(**SIZES), QuantizedGluCase(**SIZES)
LAYERS = (CASE, QUANTIZED, GLU, QUANTIZED_GLU)
"""One layer of each operator."""


def make(harness: Harness, case: Case = CASE) -> Plugin:
    plugin = harness.create(fields_of(case), case.operator)
    assert plugin, harness.take_log()
    return plugin


def configure(plugin: Plugin) -> int:
    return plugin.configure(*profile(CASE))


def profile(case: Case) -> list[Any]:
    """Current, smallest and largest tensors of a network with dynamic shapes."""
    return [replace(case, leading=leading).tensors() for leading in ((-1, -1), (1, 1), (8, 200))]

"""The record of one forward pass."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from acm_export.surgery.follow import follow


class Caching(nn.Module):
    """Keeps a tensor of its forward pass, as models with rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.seen = nn.Linear(4, 4), torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.map(x)
        return self.seen * 2


def test_operations_are_listed_with_their_module_and_where_their_inputs_came_from() -> None:
    flow = follow(nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Dropout(0.5)), {"input": torch.ones(3, 4)})
    linear, gelu = flow.operations
    assert (linear.name, linear.module, gelu.name, gelu.module) == ("linear_map", "0", "gelu", "1")
    assert gelu.inputs[0].producer is linear
    assert linear.outputs[0].consumers == [gelu]
    assert flow.outputs == frozenset(gelu.outputs)
    assert flow.batch == 3
    assert [(call.name, list(call.operations)) for call in flow.calls] == [
        ("0", [0]),
        ("1", [1]),
        ("2", []),
        ("", [0, 1]),
    ]


def test_ancestors_reach_back_to_the_input_and_only_data_depends_on_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x) * (self.scale + 1)

    flow = follow(Scaled(), {"x": torch.ones(2, 4)})
    tanh, add, mul = flow.operations
    x = tanh.inputs[0]
    assert mul.outputs[0].depends_on(x)
    assert not add.outputs[0].depends_on(x)
    assert not add.outputs[0].is_data
    assert mul.data_inputs == tanh.outputs


def test_writing_to_a_view_makes_a_new_value_of_its_base() -> None:
    class Writing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.zeros_like(x)
            y[:, 0] = x[:, 1] * 3
            return y + 1

    flow = follow(Writing(), {"x": torch.ones(2, 4)})
    add = flow.operations[-1]
    assert add.name == "add"
    assert add.inputs[0].is_data


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_model_stays_as_it_is(device: str) -> None:
    model = Caching()
    seen, weight = model.seen, model.map.weight
    follow(model, {"x": torch.ones(2, 4, device=device)})
    assert model.seen is seen
    assert model.map.weight is weight
    model(torch.ones(2, 4)).sum().backward()
    assert weight.grad is not None


def test_a_model_that_needs_values_runs_on_the_device_of_its_inputs() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x) if x.sum() > 0 else torch.tanh(x)

    names = [operation.name for operation in follow(Branching(), {"x": torch.ones(2, 4)}).operations]
    assert "relu" in names
    with pytest.raises(RuntimeError):
        follow(Branching(), {"x": torch.ones(2, 4, device="meta")})


def test_a_failing_forward_pass_raises_its_own_error_and_leaves_no_hooks() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        follow(model, {"input": torch.ones(2, 5)})
    assert not model[0]._forward_hooks
    assert torch.backends.mha.get_fastpath_enabled()


def test_tensors_of_the_pass_are_not_kept() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    class Watching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = x * 2
            alive.append(weakref.ref(hidden))
            if float(x.sum()) < 0:
                return x
            return hidden + 1

    flow = follow(Watching(), {"x": torch.ones(2, 4)})
    gc.collect()
    assert len(flow.operations) > 2
    assert alive[-1]() is None

"""Families of users: registered from their code, or found by an entry point."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest
from tiny_architectures import tiny_model

import acm_export
from acm_export.base.errors import AcmWarning, UsageError
from acm_export.surgery import ModelFamily, families, family_of, interface_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    families._registered.clear()


def test_a_registered_family_overrides_what_it_says_and_leaves_the_rest() -> None:
    model = tiny_model("dinov2")
    before = interface_of(model)
    acm_export.register_family(acm_export.ModelFamily("dinov2", outputs={"Dinov2Model": ("pooler_output",)}))
    after = interface_of(model)
    assert after.outputs == ("pooler_output",)
    assert after.inputs == before.inputs


def test_every_field_is_used() -> None:
    def inputs(config: Any) -> tuple[acm_export.InputSpec, ...]:
        return (acm_export.InputSpec("input_ids", ("batch", "words"), "int64", config.vocab_size),)

    family = acm_export.ModelFamily(
        "roberta",
        inputs=inputs,
        outputs={"RobertaForSequenceClassification": ("logits",)},
        lengths=lambda _config: {"words": 6},
        bounds=lambda _config: {"words": (2, 9)},
        tokens=lambda _config, length: length + 1,
        masked="encoder",
    )
    acm_export.register_family(family)
    found = interface_of(tiny_model("roberta"))
    assert [spec.name for spec in found.inputs] == ["input_ids"]
    assert (found.lengths, found.bounds, found.tokens(3)) == ({"words": 6}, {"words": (2, 9)}, 4)
    assert found.masked == "roberta.encoder"


def test_something_else_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="was given a str; expected a ModelFamily"):
        acm_export.register_family("vit")  # type: ignore[arg-type]


def test_families_of_installed_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    group = families.ENTRY_POINTS
    entries = [
        metadata.EntryPoint("bert", f"{__name__}:OTHER_BERT", group),
        metadata.EntryPoint("broken", "no_such_package:FAMILY", group),
        metadata.EntryPoint("number", "math:pi", group),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: entries if group == families.ENTRY_POINTS else [])
    with pytest.warns(AcmWarning) as caught:
        assert family_of("bert") is OTHER_BERT
    said = [str(warning.message) for warning in caught]
    assert any("broken = no_such_package:FAMILY" in text and "cannot be loaded" in text for text in said)
    assert any("number = math:pi" in text and "is a float; expected a ModelFamily" in text for text in said)
    acm_export.register_family(acm_export.ModelFamily("bert", masked="encoder"))
    assert family_of("bert").masked == "encoder"  # the user's own code wins


OTHER_BERT = ModelFamily("bert", default_part="whole")

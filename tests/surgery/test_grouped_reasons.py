"""What was left of a model, in few lines."""

from __future__ import annotations

from dataclasses import replace

from acm_export.surgery import Left, Site
from acm_export.surgery.linear_maps import LinearMap
from acm_export.surgery.sites import grouped, replaced_activations


def test_parts_left_for_the_same_reason_share_a_line() -> None:
    left = (
        *(Left(f"stages.{i}.mlp", f"a convolution (stages.{i}.mlp.conv) between its linear maps") for i in range(3)),
        Left("head", "it maps width 12 to 4"),
        Left("layers.0.k", "it maps width 12 to 4"),
        Left("layers.1.k", "it maps width 12 to 8"),
    )
    assert grouped(left) == [
        "stages.*.mlp (3 times): a convolution (stages.*.mlp.conv) between its linear maps",
        "head: it maps width 12 to 4",
        "layers.*.k: it maps width 12 to 4",
        "layers.*.k: it maps width 12 to 8",
    ]


def test_numbers_of_layers_inside_a_reason_do_not_split_a_group() -> None:
    left = [Left(f"b.{i}.f", f"add (b.{i}.f.0), in b.{i}, mixes b.{i}; not b.{i}") for i in range(2)]
    assert grouped(left) == ["b.*.f (2 times): add (b.*.f.*), in b.*, mixes b.*; not b.*"]


def test_sites_whose_activation_is_replaced_are_named_once_per_pattern() -> None:
    linear = LinearMap("f", 8, 8)
    site = Site("layers.0.mlp", "ffn", linear, linear)
    sites = [site, replace(site, place="layers.1.mlp"), replace(site, place="known", activation="relu")]
    text = replaced_activations([*sites, Site("q", "q_proj", linear)])
    assert text is not None
    assert text.startswith("the activation of 2 sites (layers.*.mlp) is not one of gelu, ")
    assert replaced_activations(sites[2:]) is None

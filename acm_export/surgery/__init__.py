"""Surgery: where ACM layers go in a transformer, how large they are, and how to install them."""

from acm_export.surgery.accounting import model_flops
from acm_export.surgery.families import family_of, interface_of, register_family
from acm_export.surgery.family import ModelFamily
from acm_export.surgery.install import PlacedLayer, install_acm_layers
from acm_export.surgery.interface import InputSpec, ModelInterface
from acm_export.surgery.parts import parts_of, take_part
from acm_export.surgery.prepare import prepare_model
from acm_export.surgery.sites import Left, Site, Survey, select_sites
from acm_export.surgery.sizing import spec_for
from acm_export.surgery.survey import find_sites, survey

__all__ = [
    "InputSpec",
    "Left",
    "ModelFamily",
    "ModelInterface",
    "PlacedLayer",
    "Site",
    "Survey",
    "family_of",
    "find_sites",
    "install_acm_layers",
    "interface_of",
    "model_flops",
    "parts_of",
    "prepare_model",
    "register_family",
    "select_sites",
    "spec_for",
    "survey",
    "take_part",
]

"""Where ACM layers sit in a transformer, and putting them there."""

from acm_export.surgery.families import FAMILIES, Family, FFNSite, InputSpec, family_of
from acm_export.surgery.install import install_acm_layers

__all__ = ["FAMILIES", "FFNSite", "Family", "InputSpec", "family_of", "install_acm_layers"]

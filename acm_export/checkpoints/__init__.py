"""Checkpoints: Hugging Face folders with ACM layers, and the files of the ACM authors' code."""

from acm_export.checkpoints.conversion import ConversionResult, convert
from acm_export.checkpoints.folder import Checkpoint, load_checkpoint, save_checkpoint
from acm_export.checkpoints.reference import convert_reference

__all__ = ["Checkpoint", "ConversionResult", "convert", "convert_reference", "load_checkpoint", "save_checkpoint"]

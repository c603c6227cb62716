"""Distillation: a pre-trained transformer becomes an ACM model in three phases (arXiv 2312.10193, docs/acmize.md)."""

"""Transferability scores, one file each: ``score(features (N, D), labels (N,)) -> float``."""

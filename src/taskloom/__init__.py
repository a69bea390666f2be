"""Taskloom: choose, combine, check and hand over what models learned on other tasks."""

__version__ = "0.1.0"

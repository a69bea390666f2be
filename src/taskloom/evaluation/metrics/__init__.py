"""Measures of agreement between labels and predictions; each module registers one."""

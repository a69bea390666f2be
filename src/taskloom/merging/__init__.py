"""Merging in weight space: the executor and one file per published method."""

"""Pure tensor maths: the contract, the primitives, exact order statistics. No files, no method names."""

from taskloom.algebra.core import Chain, Grain, Measure, Stack, Step, chain

__all__ = ["Chain", "Grain", "Measure", "Stack", "Step", "chain"]

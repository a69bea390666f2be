"""Stand-ins for source models: one file each, registered under "surrogate".

Each holds one function of its name, which takes the base's and the tuned model's features of the same
examples and returns a `taskloom.choose.space_map.SpaceMap`.
"""

from taskloom.choose.surrogates.esm import esm

__all__ = ["esm"]

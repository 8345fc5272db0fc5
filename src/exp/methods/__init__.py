"""Methods: implementations of one training step. `base` holds the contract; every other file is one implementation."""

from exp.methods.base import ArrayMethod, Block, Formulas, Method

__all__ = ["ArrayMethod", "Block", "Formulas", "Method"]

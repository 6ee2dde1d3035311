"""Training: the recipe, the order of the data, and the loop."""

from backdrift.training.recipe import Recipe

__all__ = ["Recipe"]

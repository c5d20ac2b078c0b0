"""YAML in, checked Recipe out: profiles, overrides, and every mistake at once with its line."""

from .files import architecture_of, recipe_of
from .loading import load
from .mistakes import Mistake, Place, RecipeError
from .nodes import dump
from .recipe import Recipe

__all__ = ["Mistake", "Place", "Recipe", "RecipeError", "architecture_of", "dump", "load", "recipe_of"]

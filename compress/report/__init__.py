"""A finished run in, what a reader wants to see out: a checked report.json, a table, pictures, one HTML page."""

from .examples import draw_examples
from .heatmap import draw_sensitivity
from .page import render, write
from .pictures import Album, gather
from .schema import ROLES, validate
from .table import table

__all__ = ["ROLES", "Album", "draw_examples", "draw_sensitivity", "gather", "render", "table", "validate", "write"]

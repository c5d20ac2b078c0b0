"""What each family of ops says about labels, one file a family; importing this fills the one table."""

from . import contraction, create, elementwise, join, normalize, rearrange, reduce, resample, reshape, select
from .table import RULES, Rule, rule

__all__ = ["RULES", "Rule", "rule"]

del contraction, create, elementwise, join, normalize, reduce, rearrange, reshape, resample, select

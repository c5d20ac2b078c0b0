"""Model and example inputs in, DependencyGraph out."""

from .graph import Cost, DependencyGraph, Frozen, Group, Link, Member
from .trace import trace

__all__ = ["Cost", "DependencyGraph", "Frozen", "Group", "Link", "Member", "trace"]

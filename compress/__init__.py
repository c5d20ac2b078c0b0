"""Structured compression of PyTorch networks: trace, plan, cut, verify. These are the public names, and only they."""

from .errors import CompressError, ExpectationError, VerificationError, nearest
from .graph.graph import Frozen, Group, Link, Member
from .hookspecs import hookimpl
from .options import Plugin
from .pruning.criteria import Criterion, Part
from .pruning.plan import Plan
from .pruning.policy import GroupPolicy
from .stages.exporter import Exporter
from .training.architecture import Architecture
from .training.dataset import Data, Dataset, Split
from .training.regularizers import Attached, Regularizer
from .training.task import Evaluation, Task

__all__ = [
    "Architecture",
    "Attached",
    "CompressError",
    "Criterion",
    "Data",
    "Dataset",
    "Evaluation",
    "ExpectationError",
    "Exporter",
    "Frozen",
    "Group",
    "GroupPolicy",
    "Link",
    "Member",
    "Part",
    "Plan",
    "Plugin",
    "Regularizer",
    "Split",
    "Task",
    "VerificationError",
    "hookimpl",
    "nearest",
]

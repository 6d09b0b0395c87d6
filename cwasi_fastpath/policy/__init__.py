"""Policies: pure functions from facts and observations to a decision. No root, no bcc, no clock, no I/O."""

from .cost import CostPolicy
from .costs import SIZES, Costs, Curve
from .decision import Decision, Limits, Objective, Policy, Request, decide, ruled_out
from .history import EdgeHistory
from .model import Conditions, Prediction
from .way import Cores, Way

__all__ = [
    "SIZES",
    "Conditions",
    "Cores",
    "CostPolicy",
    "Costs",
    "Curve",
    "Decision",
    "EdgeHistory",
    "Limits",
    "Objective",
    "Policy",
    "Prediction",
    "Request",
    "Way",
    "decide",
    "ruled_out",
]

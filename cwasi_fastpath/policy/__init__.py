"""Policies: pure functions from facts and observations to a decision. No root, no bcc, no clock, no I/O."""

from .decision import Decision, Policy, Request, decide, ruled_out
from .model import CostPolicy, Costs, Prediction

__all__ = ["CostPolicy", "Costs", "Decision", "Policy", "Prediction", "Request", "decide", "ruled_out"]

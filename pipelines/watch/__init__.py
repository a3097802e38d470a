"""``tandem watch``: the monitor on a schedule, and retraining when something asks for it.

``decide`` is pure and says what to do; ``facts`` reads the state of the world that it decides on; ``retrain`` and ``job`` do it.
"""

from pipelines.watch.decide import Action, Attempt, Champion, Decision, Findings, Look, Policy, Retrain, State, Trigger, decide, triggers

__all__ = ["Action", "Attempt", "Champion", "Decision", "Findings", "Look", "Policy", "Retrain", "State", "Trigger", "decide", "triggers"]

"""Runs sent to trackers (MLflow, Weights & Biases), from their manifests, by a process in the background.

A job only leaves a note in ``data/tracking/outbox`` and starts the deliverer (:mod:`pipelines.tracking.sync`), a process of
its own that loads MLflow (seconds), brings the tracker to what the manifests say, and ends. So a tracker costs a job
milliseconds, and one that is down costs nothing else: the notes stay, and go with the next run or ``tandem track``.

Importing this package is cheap, and :class:`pipelines.tracking.run_observer.RunObserver` never raises.
"""

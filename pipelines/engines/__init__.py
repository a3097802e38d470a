"""Engines for batch runs: the same Beam pipelines on Flink, Spark or Dataflow, with the code that they need sent along."""

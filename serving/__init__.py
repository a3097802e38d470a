"""Answers requests: the online store, the model, HTTP. Never imports Beam."""

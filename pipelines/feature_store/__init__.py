"""Feast: apply, materialize, and the online store as a stream writes to it."""

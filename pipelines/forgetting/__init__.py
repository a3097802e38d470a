"""Forgetting: what a subject left (erase), and what nobody needs any more (vacuum)."""

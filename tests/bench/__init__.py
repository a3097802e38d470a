"""Speeds side by side: ``python -m tests.bench``. Never a test."""

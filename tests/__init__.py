"""Tests of Tandem, and the oracle that says what is right."""

"""The batch job: a range of history to feature rows."""

"""Which version may serve: versions scored on the same held-out rows, thresholds, promotion and rollback."""

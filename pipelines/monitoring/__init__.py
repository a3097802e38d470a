"""What happened after the answers: labels, drift, skew, and one verdict."""

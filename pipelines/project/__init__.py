"""A feature repository and its settings, and the record of what is done with it."""

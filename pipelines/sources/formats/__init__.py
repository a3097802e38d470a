"""How a record's bytes become values: one file per format."""

"""Tables as event files: one module per kind, and the snapshot that a run reads."""

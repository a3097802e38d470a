"""Contract suites that ship: what an aggregate, a store, a format, a broker, an engine or a tracker of another package must hold."""

"""Data as people have it, made up: public shapes (names, types, units, quirks) with rows of our own. Small, and the same every time."""

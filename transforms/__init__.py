"""What a feature is: definitions, contract, aggregates, windows and the transform graph. Arrow in, Arrow out."""

import tandem  # noqa: F401  # its names of today and of before, pinned to this installation

"""What a feature is: definitions, contract, aggregates, windows and the transform graph. Arrow in, Arrow out."""

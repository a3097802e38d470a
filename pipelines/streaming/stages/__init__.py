"""The steps of the streaming job, in the order of the data's way: poll, fold, sink."""

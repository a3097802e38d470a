"""The same features made in other ways, for the stream's benchmark."""

"""The commands that came with the stream; pipelines.cli registers them."""

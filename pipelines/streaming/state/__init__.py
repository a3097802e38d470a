"""What a streaming job keeps on disk, and where it starts."""

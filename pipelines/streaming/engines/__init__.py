"""What runs the streaming job."""

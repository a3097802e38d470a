"""Where results come from: what differs between runs, whether they can be made again, and what a served prediction was made of."""

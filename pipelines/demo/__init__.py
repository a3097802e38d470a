"""The demo, its client, and the repository that ``tandem init`` writes."""

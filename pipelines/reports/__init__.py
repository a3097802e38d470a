"""What the HTML pages of verify and monitor share: one style, charts without scripts, nothing fetched."""

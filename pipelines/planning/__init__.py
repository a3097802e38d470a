"""``tandem plan``: what the definitions as they are now will cost, before anything is applied. Nothing here writes."""

"""Where one machine ends: images, charts, workflows, tried with the real tools that run without a cluster (``make scale``)."""

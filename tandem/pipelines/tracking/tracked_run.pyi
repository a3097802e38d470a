from pipelines.tracking.tracked_run import *

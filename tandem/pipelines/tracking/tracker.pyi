from pipelines.tracking.tracker import *

from pipelines.workflow import *

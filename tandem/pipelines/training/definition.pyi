from pipelines.training.definition import *

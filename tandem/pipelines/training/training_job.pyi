from pipelines.training.training_job import *

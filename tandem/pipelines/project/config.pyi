from pipelines.project.config import *

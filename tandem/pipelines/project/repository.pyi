from pipelines.project.repository import *

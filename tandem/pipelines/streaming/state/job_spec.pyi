from pipelines.streaming.state.job_spec import *

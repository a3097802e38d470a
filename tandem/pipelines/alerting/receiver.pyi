from pipelines.alerting.receiver import *

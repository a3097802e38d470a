from pipelines.feature_store.views import *

from serving.online_store.feature_rows import *

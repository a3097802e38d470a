from serving.online_store.redis import *

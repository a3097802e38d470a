from serving.online_store.base import *

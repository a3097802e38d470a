from serving.online_store.sqlite import *

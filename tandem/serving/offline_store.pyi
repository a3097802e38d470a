from serving.offline_store import *

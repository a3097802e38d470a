from serving.request_log import *

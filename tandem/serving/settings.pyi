from serving.settings import *

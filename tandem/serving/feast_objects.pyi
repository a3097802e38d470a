from serving.feast_objects import *

from transforms.graph import *

from transforms.functions.base import *

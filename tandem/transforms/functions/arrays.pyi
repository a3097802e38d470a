from transforms.functions.arrays import *

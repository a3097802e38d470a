from transforms.aggregates import *

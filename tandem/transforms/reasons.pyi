from transforms.reasons import *

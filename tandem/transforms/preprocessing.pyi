from transforms.preprocessing import *

from transforms.windows import *

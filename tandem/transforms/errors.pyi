from transforms.errors import *

from transforms.schemas import *

from transforms.definitions import *

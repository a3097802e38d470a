from transforms.contract import *

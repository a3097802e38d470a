from transforms.functions.aggregate import *

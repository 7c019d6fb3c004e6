"""What measures a device: a package that needs numpy and ONNX Runtime only, and goes to a device as a whole.

Its files import each other relatively, and use nothing newer than Python 3.9.
"""

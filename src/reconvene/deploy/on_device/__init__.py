"""What classifies images on a device: a package that needs numpy and one runtime, and goes into a bundle as a whole.

Its files import each other relatively, and use nothing newer than Python 3.9.
"""

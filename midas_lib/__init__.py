"""Handwriting experiments: characters, transfer to MNIST, and learning from wrong labels.

Importing the package is cheap: TensorFlow is loaded only by the modules that train or predict.
"""

__version__ = "1.0.0"

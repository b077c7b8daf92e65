"""From the AFAD folder to a verified frozen graph.

The package is a line of stages, each a module that can be used alone::

    source -> records -> input_fn -> trainer -> evaluation -> freeze -> prediction

Importing it costs nothing: TensorFlow is loaded by the first call that needs it.
"""

__version__ = "0.2.0"

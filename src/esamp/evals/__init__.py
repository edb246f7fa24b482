"""Measuring what a method does. Evaluation knows backends only through `esamp.generation`."""

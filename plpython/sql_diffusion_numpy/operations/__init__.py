"""The operations of a plan, a module each, found by name: run, and lay_out where the operation has parameters.

lay_out(layout, read, row, height, width) reads the parameters below the row's key and puts them into the layout as run
uses them; height and width are those of the first input of samples of the usual size (0 where it is no image).

run(network, row, inputs, shared) returns the step's result, from the results of the steps that it takes. shared is a
dictionary of the pass, empty at its beginning.
"""

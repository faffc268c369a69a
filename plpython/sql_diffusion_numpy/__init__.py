"""The fast twin of the pure-SQL extension: the same layers, networks and samplers in NumPy.

Inside, an activation is (batch, height, width, channels), channels last, so that every step of a convolution moves
whole runs of channels; the borders with SQL (functions/) turn it into PyTorch's channels-first order.
"""

"""The layers, one module a file of sql/layers."""

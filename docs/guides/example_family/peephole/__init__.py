"""The family `peephole` for dovetail: its declaration, its inputs, its model."""

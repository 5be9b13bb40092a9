"""A CUDA runtime that computes nothing, so that ONNX Runtime's real CUDA provider runs on a machine without a GPU.

Real: loading the provider, kernel look-up and placement, IO binding, capture and replay of CUDA graphs, which thread
owns a graph, copies, handles, memory. Not real: arithmetic, what cuDNN and cuBLAS do inside, and speed.
"""

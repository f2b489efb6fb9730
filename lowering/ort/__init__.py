"""ONNX Runtime: its targets, its sessions, and which kernels it has."""

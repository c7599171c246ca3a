"""Exporting a model to ONNX and OpenVINO with a parity check."""

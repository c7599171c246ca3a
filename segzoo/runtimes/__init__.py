"""Inference runtimes: builders of functions from images to logits."""

EXTRAS = {"onnxruntime": "export", "openvino": "export,openvino"}  # extras that install a runtime

"""A detector as files that run without this project: ONNX, and programs of torch.export."""

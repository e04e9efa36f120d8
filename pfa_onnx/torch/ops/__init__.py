"""One module for each operator family; `pfa_onnx.torch.registry` reads them all."""

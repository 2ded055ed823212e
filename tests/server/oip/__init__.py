"""Tests of the Open Inference Protocol's wire format: JSON, tensors and binary data, without a server."""

"""The ``openvino`` runtime."""

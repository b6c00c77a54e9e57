"""Make the helpers of this folder importable by all tests."""

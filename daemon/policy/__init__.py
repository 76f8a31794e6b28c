"""The policy language: text in, compiled rules out; no input, output or clock."""

"""The program's process and the gRPC service it talks to."""

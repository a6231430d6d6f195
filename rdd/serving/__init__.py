"""What is said of an image, and how it is found out; the same for the command line, the server, MLflow and clusters."""

"""The server's routes: one FastAPI application that knows no Ray, over whatever gives the answers."""

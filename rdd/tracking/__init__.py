"""MLflow: what is logged, and the pages that it is read on."""

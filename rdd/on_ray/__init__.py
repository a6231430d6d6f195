"""All stages that run on Ray: embedding, training, sweeps, ablations, figures. Only this package imports ray."""

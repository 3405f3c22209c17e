"""Features of sparse autoencoders on the residual stream: traced, combined, steered, annotated."""

//! Properties of the model on generated streams.

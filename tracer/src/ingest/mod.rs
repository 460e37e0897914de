//! Kernel maps and ring records to model events.

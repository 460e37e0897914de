//! Raw stack copies to frames with names, files, lines and owners.

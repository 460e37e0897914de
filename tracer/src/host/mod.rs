//! What the host and its processes say: /proc, namespaces, sock_diag, BTF, kernel features.

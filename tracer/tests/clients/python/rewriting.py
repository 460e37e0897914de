"""Runs a program while whoever connects to one TCP port of IPv4 gets to another one, as load balancers do
that work on sockets: `rewriting.py FROM TO PROGRAM ...`, as root and in a mount namespace of its own. The
rewriting is gone with the program. See ../README.md."""

import ctypes
import os
import socket
import struct
import sys
import tempfile

# `linux/bpf.h`
BPF_PROG_LOAD, BPF_LINK_CREATE = 5, 28
BPF_PROG_TYPE_CGROUP_SOCK_ADDR = 18
BPF_CGROUP_INET4_CONNECT = 10
# Offset in `struct bpf_sock_addr`
USER_PORT = 24
SYS_BPF = 321

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    attributes = ctypes.create_string_buffer(attributes, 144)
    result = libc.syscall(SYS_BPF, command, attributes, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def instruction(code, registers, offset, value):
    return struct.pack("<BBhi", code, registers, offset, value)


def main():
    old, new = (socket.htons(int(port)) for port in sys.argv[1:3])
    program = b"".join(
        (
            instruction(0x61, 0x12, USER_PORT, 0),  # r2 = port
            instruction(0x55, 0x02, 2, old),  # unless it is the old one:
            instruction(0xB7, 0x02, 0, new),
            instruction(0x63, 0x21, USER_PORT, 0),  # port = r2
            instruction(0xB7, 0x00, 0, 1),  # go on
            instruction(0x95, 0, 0, 0),
        )
    )
    code = ctypes.create_string_buffer(program)
    licence = ctypes.create_string_buffer(b"GPL")
    load = struct.pack(
        "<IIQQIIQII16sII",
        BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
        b"rewriting",
        0,
        BPF_CGROUP_INET4_CONNECT,
    )
    loaded = bpf(BPF_PROG_LOAD, load)
    with tempfile.TemporaryDirectory() as hierarchy:
        if libc.mount(b"none", hierarchy.encode(), b"cgroup2", 0, None) != 0:
            raise OSError(ctypes.get_errno(), "mounting cgroup2")
        root = os.open(hierarchy, os.O_RDONLY)
        libc.umount2(hierarchy.encode(), 2)
    link = bpf(BPF_LINK_CREATE, struct.pack("<IIII", loaded, root, BPF_CGROUP_INET4_CONNECT, 0))
    os.set_inheritable(link, True)
    os.execvp(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()

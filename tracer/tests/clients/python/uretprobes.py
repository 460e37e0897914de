"""Another tracer: probes the returns of functions of one process, as `perf` and bpftrace do, and
counts them. See ../README.md."""

import ctypes
import os
import re
import struct
import sys

PERF_EVENT_OPEN = 298  # on x86-64
PERF_FLAG_FD_CLOEXEC = 8
ATTR_BYTES = 128
PMU = "/sys/bus/event_source/devices/uprobe"


def read(name):
    with open(f"{PMU}/{name}") as file:
        return file.read().strip()


def attach(pid, path, offset):
    """A descriptor that owns the probe and whose value is the number of returns."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return_bit = int(re.fullmatch(r"config:(\d+)", read("format/retprobe"))[1])
    attr = ctypes.create_string_buffer(ATTR_BYTES)
    struct.pack_into("=IIQ", attr, 0, int(read("type")), ATTR_BYTES, 1 << return_bit)
    # config1 and config2: the file's name and the offset in it
    struct.pack_into("=QQ", attr, 56, ctypes.addressof(name), offset)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(PERF_EVENT_OPEN, attr, pid, -1, -1, PERF_FLAG_FD_CLOEXEC)
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return fd


def returned(probes):
    """Every probe has seen its function return."""
    for place, fd in probes.items():
        if struct.unpack("=Q", os.read(fd, 8))[0] == 0:
            raise LookupError(f"{place} has not returned")


def main():
    probes = {}
    for place in sys.argv[2:]:
        path, offset = place.rsplit(":", 1)
        probes[place] = attach(int(sys.argv[1]), path, int(offset))
    print("ready", os.getpid(), flush=True)
    for line in sys.stdin:
        command = line.strip()
        if command == "quit":
            break
        try:
            if command != "returned":
                raise ValueError(f"no command {command}")
            returned(probes)
            print("done", command, flush=True)
        except Exception as error:  # whatever it is, the test must hear of it
            print("error", type(error).__name__, str(error).replace("\n", " "), flush=True)


if __name__ == "__main__":
    main()

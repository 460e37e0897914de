"""Writes down what is in the memory of this very interpreter about a thread that waits, and what the
interpreter itself says of it. Reads its own memory only, and takes no offset from the tracer.

    python3.8 - < record_frames.py > tracer/src/symbolize/python/recorded/3.8.json

Up to 3.12: from then on the tracer reads the table of the interpreter, which is longer.
"""

import _thread
import ctypes
import json
import struct
import sys
import time

SOURCE = '''
class Orders:
    def load(self, lock):
        return [self.read(lock)
                for _ in range(1)]

    def read(self, lock):
        if True:
            läckt(
                lock,
                7)

def läckt(lock, count):
    more = count * [lock]
    def 漏れ():
        for each in more:
            each.acquire()
    漏れ()
'''

memory = {}


def word(at):
    return struct.unpack("<Q", ctypes.string_at(at, 8))[0]


def keep(at, size):
    """Puts so many bytes into the record, and gives back where they are."""
    memory[at] = ctypes.string_at(at, size).hex()
    return at


def symbol(name):
    return ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, name))


def address(function, *arguments):
    function = getattr(ctypes.pythonapi, function)
    function.restype = ctypes.c_void_p
    return function(*map(ctypes.c_void_p, arguments))


def keep_code(code):
    keep(id(code), 256)
    # The object itself, where an attribute would be made anew.
    for held in (code.co_filename, code.co_name, getattr(code, "co_qualname", None)):
        if held is not None:
            keep(id(held), sys.getsizeof(held))
    table = code.co_linetable if hasattr(code, "co_linetable") else code.co_lnotab
    keep(id(table), sys.getsizeof(table))


def keep_frame(frame):
    """The interpreter's own frame, which the object of it refers to from 3.11 on."""
    keep(word(id(frame) + 24) if sys.version_info >= (3, 11) else id(frame), 112)


def record(ident):
    runtime = keep(symbol("_PyRuntime"), 128)
    interpreter = address("PyInterpreterState_Main")
    keep(interpreter, 128)
    state = address("PyInterpreterState_ThreadHead", interpreter)
    while state:
        keep(state, 256)
        if sys.version_info[:2] in ((3, 11), (3, 12)):
            keep(word(state + 56), 16)
        state = address("PyThreadState_Next", state)
    said = []
    frame = sys._current_frames()[ident]
    while frame:
        code = frame.f_code
        keep_frame(frame)
        keep_code(code)
        function = getattr(code, "co_qualname", code.co_name)
        said.append([function, code.co_filename, frame.f_lineno])
        frame = frame.f_back
    json.dump(
        {
            "minor": sys.version_info[1],
            "runtime": runtime,
            "code_type": symbol("PyCode_Type"),
            "thread": ident,
            "frames": said,
            "memory": {hex(at): memory[at] for at in sorted(memory)},
        },
        sys.stdout,
        indent=1,
    )


def main():
    scope = {}
    exec(compile(SOURCE, "/srv/größe/läck.py", "exec"), scope)
    lock = _thread.allocate_lock()
    lock.acquire()
    # Without a frame of the library.
    waiter = _thread.start_new_thread(scope["Orders"]().load, (lock,))
    time.sleep(1)
    record(waiter)


main()

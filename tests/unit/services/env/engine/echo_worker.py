"""A worker for worker_pool_test: frames are texts, the first word says what to do. Without palimpsest_env on purpose."""
import os
import struct
import subprocess
import sys
import time

HEADER = struct.Struct(">I")
hoard = []


def read(size):
    data = b""
    while len(data) < size:
        more = os.read(3, size - len(data))
        if not more:
            sys.exit(0)
        data += more
    return data


def write(data):
    while data:
        data = data[os.write(3, data):]


def obey(word, rest):
    if word == "die":
        print("these are my last words", flush=True)
        os._exit(7)
    if word == "hang":  # and leave a sign that it has begun
        if rest:
            open(rest, "w").close()
        time.sleep(1000)
    if word == "shout":
        for i in range(int(rest)):
            print("rubbish", i)
        sys.stderr.write("\xff\xfe no newline at the end")
    if word == "take":  # MiB
        hoard.append(bytearray(int(rest) << 20))
    if word == "oversize":
        write(HEADER.pack(1 << 31))
    if word == "twice":
        write(HEADER.pack(2) + b"hi")
    if word == "truncate":
        write(b"\0\0")
        time.sleep(1000)
    if word == "child":  # leaves a process behind that holds our output open
        return str(subprocess.Popen(["sleep", "1000"]).pid)
    if word == "later":  # answers once the file is there
        while not os.path.exists(rest):
            time.sleep(0.01)
    if word == "touch":
        open(rest, "w").close()
    if word == "pid":
        return str(os.getpid())
    return rest


while True:
    request = read(HEADER.unpack(read(4))[0]).decode()
    answer = obey(*request.partition(" ")[::2]).encode()
    write(HEADER.pack(len(answer)) + answer)

"""Turns of a measurement: who is measured is a process that reads one job per line and answers with one line.

A job is a JSON object with `what` and its sizes, an answer a JSON object with what was measured, or {"error": ..}.
Between two jobs a process waits for its stdin and takes no time from the others.
"""
import json
import subprocess
import sys


def prompt_of(turn, stream, tokens, vocab):
    """Ids that no other turn or stream begins with; engine_bench forms the same."""
    return [(turn * 7919 + stream * 104729 + i * 31 + 7) % vocab for i in range(tokens)]


def serve(jobs):
    """Answers the jobs of stdin by the functions of `jobs`, {what: function(job)}, until it ends."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(jobs[job["what"]](job)), flush=True)


class Participant:
    def __init__(self, name, command, env=None):
        self.name = name
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=env)

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with exit code {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise SystemExit(f"{self.name}: {answer['error']}")
        return answer

    def wait_until_ready(self):
        self.read()

    def do(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self.read()

    def end(self):
        self.process.stdin.close()
        self.process.wait()

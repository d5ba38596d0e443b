#!/usr/bin/env python3
"""A disk that is full, and one that is read-only. Usage: see case.py. Needs root: it mounts small file systems, in a
namespace of its own that ends with the test. Where that cannot be had the test fails: nothing would have been tested.
"""
import os
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import case  # noqa: E402

INSIDE = "--inside-of-a-namespace"
FULL = ("No space left on device", "database or disk is full")
READ_ONLY = ("Read-only file system", "readonly database", "unable to open database file")


def enter():
    """Returns inside of the namespace only."""
    if INSIDE in sys.argv:
        sys.argv.remove(INSIDE)
        return
    if os.geteuid() != 0:
        sys.exit("FAILED: without root there is no small disk, and nothing was tested")
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv, INSIDE])


def mount(*words):
    subprocess.run(["mount", *map(str, words)], check=True, capture_output=True, timeout=20)


def remount(folder, how):
    """Busy while somebody has a file open for writing."""
    for _ in range(200):
        if subprocess.run(["mount", "-o", f"remount,{how}", folder], capture_output=True, timeout=20).returncode == 0:
            return
        time.sleep(0.01)
    raise AssertionError(f"{folder} could not be made {how}")


def small_disk(folder):
    folder.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", "size=24m", "tmpfs", folder)


def fill(path):
    """Until nothing more fits."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                pass


class Disk(case.Case):
    def tearDown(self):
        for crew_folder in self.folder.glob("crew-*"):
            for mounted in (crew_folder / "run/store", crew_folder / "run"):
                subprocess.run(["umount", "--lazy", mounted], capture_output=True, timeout=20)

    def await_words(self, crew, words, since, roles=("trainer", "orchestrator", "inference")):
        """Until one of these daemons has said one of them, in what its log has after `since`."""
        def look():
            return any(word in crew.log(role)[since.get(role, 0):] for role in roles for word in words)
        crew.until(words[0], look)

    def lengths(self, crew):
        return {role: len(crew.log(role)) for role in ("trainer", "orchestrator", "inference")}

    def test_a_full_disk_costs_time_and_the_run_goes_on_when_there_is_room(self):
        crew = self.crew()
        small_disk(crew.run)
        crew.start()
        crew.await_steps(2)
        for _ in range(5 if case.WORDS.long else 1):
            since = self.lengths(crew)
            crew.pause(self.random.random())
            fill(crew.run / "ballast")
            self.await_words(crew, FULL, since)
            crew.pause(3)  # whatever ends is started again, and meets the same
            (crew.run / "ballast").unlink()
            crew.await_steps(3)
            self.assert_sound(crew)
        last = crew.finish()
        self.assert_sound(crew)
        self.assert_undisturbed(crew, last)

    def test_a_store_that_turns_read_only_stops_the_run_until_it_can_be_written(self):
        crew = self.crew()
        small_disk(crew.run)
        small_disk(crew.run / "store")
        crew.start()
        crew.await_steps(2)
        since = self.lengths(crew)
        remount(crew.run / "store", "ro")
        self.await_words(crew, READ_ONLY, since)
        crew.pause(2)
        self.assert_sound(crew)
        remount(crew.run / "store", "rw")
        crew.await_steps(3)
        crew.finish()
        self.assert_sound(crew)

    def test_on_a_read_only_disk_nothing_starts_and_each_daemon_says_why(self):
        crew = self.crew()
        small_disk(crew.run)
        crew.start()
        crew.await_steps(3)
        for role in list(crew.daemons):
            crew.kill(role, again=None)
        since = self.lengths(crew)
        remount(crew.run, "ro")
        crew.start("trainer", "orchestrator")
        crew.until("the end of both", lambda: {"trainer", "orchestrator"} <= {role for role, _ in crew.ends})
        for role in ("trainer", "orchestrator"):
            self.await_words(crew, READ_ONLY, since, (role,))
        remount(crew.run, "rw")
        crew.start("env", "inference")
        crew.await_steps(2)
        last = crew.finish()
        self.assert_sound(crew)
        self.assert_undisturbed(crew, last)


if __name__ == "__main__":
    enter()
    case.main()
